"""The caches of all layers of a model, committed together."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..config import LayerConfig, MiMoConfig
from ..errors import ShapeError
from .formats import KvFormat
from .layer import GlobalLayerCache, LayerCache, RingLayerCache, native_layers, write

__all__ = ["ModelCache"]


@dataclass(frozen=True)
class _Step:
    """New keys and values of layers with common lengths, not committed yet."""

    keys_values: Sequence[tuple[Tensor, Tensor]] | Tensor
    cu_seqlens: Tensor
    ancestors: Tensor | None


class ModelCache:
    """One layer cache per decoder layer and per MTP block, for ``rows`` sequences.

    A forward pass stages its new keys and values; ``commit`` appends them to all layers or, with an
    error, to none. The MTP blocks trail behind and have lengths of their own.
    """

    def __init__(
        self,
        layers: Sequence[LayerConfig],
        rows: int,
        max_tokens: int,
        *,
        mtp_layers: Sequence[LayerConfig] = (),
        dtype: torch.dtype = torch.bfloat16,
        kv_format: KvFormat | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_tokens, self.dtype = max_tokens, dtype
        self.lengths = torch.zeros(rows, dtype=torch.int64)
        self._mtp_lengths = torch.zeros(len(mtp_layers), rows, dtype=torch.int64)
        self.layers = tuple(
            _layer_cache(layer, rows, max_tokens, self.lengths, dtype, kv_format, device)
            for layer in layers
        )
        self.mtp_layers = tuple(
            _layer_cache(layer, rows, max_tokens, lengths, dtype, kv_format, device)
            for layer, lengths in zip(mtp_layers, self._mtp_lengths, strict=True)
        )
        self._step: _Step | None = None
        self._mtp_steps: dict[int, _Step] = {}
        self._native_mtp: dict[int, object] = {}

    @classmethod
    def for_config(
        cls,
        config: MiMoConfig,
        rows: int,
        max_tokens: int,
        *,
        dtype: torch.dtype = torch.bfloat16,
        kv_format: KvFormat | None = None,
        device: torch.device | str = "cpu",
    ) -> "ModelCache":
        """An empty cache for ``rows`` sequences of up to ``max_tokens`` tokens each.

        ``kv_format``: how global layers store keys and values, "bf16", "int8" or "e4m3"; by
        default in ``dtype``. Sliding layers hold few and always store what is computed. Storage
        lies on ``device``; lengths stay on the host.
        """
        return cls(
            [config.layer(i) for i in range(config.num_hidden_layers)],
            rows,
            max_tokens,
            mtp_layers=[config.mtp_layer() for _ in range(config.num_mtp_layers)],
            dtype=dtype,
            kv_format=kv_format,
            device=device,
        )

    @property
    def plain(self) -> bool:
        """Whether the storage is what a GPU reads."""
        return any(cache.plain for cache in self.layers)

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of storage; pages that no token has reached cost no memory yet."""
        return sum(cache.nbytes for cache in (*self.layers, *self.mtp_layers))

    def mtp_lengths(self, k: int) -> Tensor:
        """int64 [rows]: committed tokens of MTP block ``k``."""
        return self._mtp_lengths[k]

    def check_room(self, cu_seqlens: Tensor, *, tree: bool = False) -> None:
        """Raise ShapeError if a step with these tokens [rows + 1] would outgrow the cache.

        Of a draft tree only one path is committed, so its size does not matter here.
        """
        if cu_seqlens.numel() != self.rows + 1:
            expected = f"{self.rows} rows, those of the cache"
            raise ShapeError("cache", "tokens", expected=expected, got=f"{cu_seqlens.numel() - 1}")
        if tree:
            return
        after = self.lengths + cu_seqlens.diff()
        if self.rows and int(after.max()) > self.max_tokens:
            row = int(after.argmax())
            raise ShapeError(
                "cache",
                "tokens",
                expected=f"at most {self.max_tokens} tokens in a row, the cache's max_tokens",
                got=f"{int(after[row])} tokens in row {row}",
                remedy="Make the cache with a larger max_tokens, or truncate the row.",
            )

    @cached_property
    def native_layers(self) -> object:
        """The decoder layers' storage as the native step takes it."""
        return native_layers(self.layers, self.lengths, self.max_tokens)

    def native_mtp_layers(self, k: int) -> object:
        """The storage of MTP block ``k`` as the native step takes it."""
        self._check_mtp(k)
        if k not in self._native_mtp:
            layers = (self.mtp_layers[k],)
            self._native_mtp[k] = native_layers(layers, self._mtp_lengths[k], self.max_tokens)
        return self._native_mtp[k]

    def stage(
        self,
        keys_values: Sequence[tuple[Tensor, Tensor]] | Tensor,
        cu_seqlens: Tensor,
        ancestors: Tensor | None = None,
    ) -> None:
        """Hold a step's new keys and values until ``commit``; an earlier step is dropped.

        keys_values: per layer k [N, Hkv, Dqk] and v [N, Hkv, Dv], or all of these one after another
        in one tensor; cu_seqlens [rows + 1]; ancestors [N] int64 of a draft tree.
        """
        if not isinstance(keys_values, Tensor) and len(keys_values) != len(self.layers):
            expected = f"keys and values of {len(self.layers)} layers"
            raise ShapeError("stage", "keys_values", expected=expected, got=str(len(keys_values)))
        self._step = _Step(keys_values, cu_seqlens, ancestors)

    def commit(self, rows: Tensor | None = None) -> None:
        """Append the staged step to every layer; all of it or, with an error, nothing.

        rows [M] integers: the accepted tokens as packed indices, row by row, each row's a path of
        the draft tree or its first tokens; default: all. Raises ShapeError.
        """
        if self._step is None:
            raise ShapeError("commit", "step", expected="a staged step", got="none")
        step = self._step
        if isinstance(step.keys_values, Tensor):
            self.native_layers.commit(step.keys_values, step.cu_seqlens, rows, step.ancestors)
        else:
            layers = [(c, k, v) for c, (k, v) in zip(self.layers, step.keys_values, strict=True)]
            write(layers, self.lengths, step.cu_seqlens, rows, step.ancestors, self.max_tokens)
        self._step = None

    def drop_step(self) -> None:
        """Let go of a staged step: later tokens have been committed."""
        self._step = None

    def stage_mtp(
        self, k: int, keys_values: Sequence[tuple[Tensor, Tensor]] | Tensor, cu_seqlens: Tensor
    ) -> None:
        """Hold a step of MTP block ``k``; its one layer's ``keys_values`` as in ``stage``."""
        self._check_mtp(k)
        self._mtp_steps[k] = _Step(keys_values, cu_seqlens, None)

    def commit_mtp(self, k: int, rows: Tensor | None = None) -> None:
        """Append block ``k``'s staged step; ``rows`` as in ``commit``."""
        self._check_mtp(k)
        if k not in self._mtp_steps:
            raise ShapeError("commit_mtp", "step", expected="a staged step", got="none")
        step = self._mtp_steps[k]
        if isinstance(step.keys_values, Tensor):
            self.native_mtp_layers(k).commit(step.keys_values, step.cu_seqlens, rows, None)
        else:
            layers = [(self.mtp_layers[k], *step.keys_values[0])]
            write(layers, self._mtp_lengths[k], step.cu_seqlens, rows, None, self.max_tokens)
        del self._mtp_steps[k]

    def truncate(self, row: int, length: int) -> None:
        """Keep the first ``length`` tokens of a row, in MTP blocks at most as many.

        Raises ShapeError where a ring no longer holds what the next token would see.
        """
        self._check_row(row)
        if not self.layers:
            raise ShapeError("truncate", "layers", expected="at least one", got="none")
        cuts = [(cache, length) for cache in self.layers]
        for cache in self.mtp_layers:
            cuts.append((cache, min(length, int(cache.lengths[row]))))
        for cache, cut in cuts:
            cache.check_truncate(row, cut)
        self._cut(row, length)

    def reset(self, row: int) -> None:
        """Forget everything about a row."""
        self._check_row(row)
        self._cut(row, 0)

    def unpacked(self, row: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """``LayerCache.unpacked`` of every layer, MTP blocks last."""
        return [cache.unpacked(row) for cache in (*self.layers, *self.mtp_layers)]

    def _cut(self, row: int, length: int) -> None:
        self.lengths[row] = length
        self._mtp_lengths[:, row].clamp_(max=length)
        for cache in (*self.layers, *self.mtp_layers):
            cache.forget(row, int(cache.lengths[row]))
        # A staged step followed the tokens that are gone now.
        self._step = None
        self._mtp_steps.clear()

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.rows:
            raise ShapeError("cache", "row", expected=f"a row in [0, {self.rows})", got=str(row))

    def _check_mtp(self, k: int) -> None:
        if not 0 <= k < len(self.mtp_layers):
            expected = f"an MTP block in [0, {len(self.mtp_layers)})"
            raise ShapeError("cache", "k", expected=expected, got=str(k))


def _layer_cache(
    layer: LayerConfig,
    rows: int,
    max_tokens: int,
    lengths: Tensor,
    dtype: torch.dtype,
    kv_format: KvFormat | None,
    device: torch.device | str,
) -> LayerCache:
    if layer.window_keys is None:
        return GlobalLayerCache(
            rows,
            max_tokens,
            num_kv_heads=layer.num_kv_heads,
            head_dim=layer.head_dim,
            v_head_dim=layer.v_head_dim,
            dtype=dtype,
            kv_format=kv_format,
            lengths=lengths,
            device=device,
        )
    return RingLayerCache(
        rows,
        layer.window_keys,
        num_kv_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        v_head_dim=layer.v_head_dim,
        dtype=dtype,
        lengths=lengths,
        max_tokens=max_tokens,
        device=device,
    )
