"""The cache of one layer: a global layer keeps every token, a sliding layer a ring of the last.

Storage is blocks of 64 positions per row and kv head, in the layout of csrc/attention/layout.h:
keys [B, Hkv, blocks, 64 * Dqk], values [B, Hkv, blocks, 64 * Dv]; in an 8-bit format every block
ends with the float32 scales of its 64 keys or values. A position's place follows from
the position alone, so that a row's sums have the same order however its tokens arrived.

On a GPU storage is plain rows (``plain.py``); a cache is made for where it is used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends import native, simulated
from ..errors import ShapeError, UnsupportedError
from . import plain
from .formats import SCALE_BYTES, KvFormat, as_stored, storage_dtype
from .storage import BLOCK, empty_blocks, unpack

__all__ = ["BLOCK", "GlobalLayerCache", "LayerCache", "RingLayerCache", "native_layers", "write"]


class LayerCache:
    """Keys and values of one layer's committed tokens, for ``rows`` sequences.

    ``lengths`` int64 [rows] counts committed tokens. Layers of a :class:`ModelCache` share it and
    are committed together; a cache made alone has its own and commits by itself.
    """

    is_ring = False

    def __init__(
        self,
        rows: int,
        blocks: int,
        *,
        num_kv_heads: int,
        head_dim: int,
        v_head_dim: int,
        dtype: torch.dtype = torch.bfloat16,
        kv_format: KvFormat | None = None,
        lengths: Tensor | None = None,
        max_tokens: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        storage = storage_dtype(kv_format, dtype)
        given = {"rows": rows, "kv heads": num_kv_heads, "head_dim": head_dim, "Dv": v_head_dim}
        if rows < 0 or min(num_kv_heads, head_dim, v_head_dim) < 1:
            raise ShapeError("LayerCache", "sizes", expected="positive sizes", got=str(given))
        self.plain = torch.device(device).type == "cuda" or simulated()
        if self.plain and storage != dtype:
            reasons = [f"a cache on a GPU holds what is computed, not {storage}"]
            raise UnsupportedError("LayerCache", reasons, remedy="Leave kv_format out.")
        if self.plain and (head_dim % 8 or v_head_dim % 8):
            reasons = [f"head dims {head_dim} and {v_head_dim} on a GPU are not multiples of 8"]
            raise UnsupportedError("LayerCache", reasons, remedy="Pad them, or use the CPU.")
        padded_qk = head_dim + head_dim % 2 if dtype == torch.bfloat16 else head_dim
        padded_v = -(-v_head_dim // 16) * 16
        scales = BLOCK * SCALE_BYTES if storage.itemsize == 1 else 0
        self.num_kv_heads, self.head_dim, self.v_head_dim = num_kv_heads, head_dim, v_head_dim
        self.max_tokens = max_tokens
        sizes = rows, num_kv_heads, blocks
        if self.plain:
            shape = rows, num_kv_heads, blocks * BLOCK
            self.keys, self.values = (
                torch.empty(*shape, dim, dtype=storage, device=device)
                for dim in (head_dim, v_head_dim)
            )
        else:
            self.keys = empty_blocks(*sizes, BLOCK * padded_qk + scales, dtype=storage)
            self.values = empty_blocks(*sizes, BLOCK * padded_v + scales, dtype=storage)
        self._shared = lengths is not None
        self.lengths = torch.zeros(rows, dtype=torch.int64) if lengths is None else lengths
        self.held_from: Tensor | None = None  # of a ring: the first position it still holds
        self._ahead: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def rows(self) -> int:
        return self.keys.shape[0]

    @property
    def capacity(self) -> int:
        """Positions that the storage has room for."""
        return self.keys.shape[2] * (1 if self.plain else BLOCK)

    @property
    def nbytes(self) -> int:
        """Bytes of storage; pages that no token has reached cost no memory yet."""
        return self.keys.nbytes + self.values.nbytes

    def commit(
        self,
        k_new: Tensor,
        v_new: Tensor,
        rows: Tensor | None = None,
        *,
        cu_seqlens_q: Tensor | None = None,
        ancestors: Tensor | None = None,
    ) -> None:
        """Append tokens of a step to their rows; all of it or, with an error, nothing.

        k_new [B, T, Hkv, Dqk], v_new [B, T, Hkv, Dv], or packed [N, Hkv, ..] with cu_seqlens_q
        [B + 1]. rows [M]: the packed indices of the accepted tokens, row by row, each row's a path
        of the tree that ``ancestors`` describes, or its first tokens; default: all.
        Raises ShapeError, also where a row would outgrow the cache.
        """
        if self._shared:
            remedy = "Use ModelCache.stage and ModelCache.commit."
            raise UnsupportedError(
                "commit", ["the layers of a ModelCache are committed together"], remedy=remedy
            )
        if cu_seqlens_q is None:
            tokens = k_new.shape[1] if k_new.ndim == 4 else 0
            cu_seqlens_q = torch.arange(self.rows + 1) * tokens
            k_new, v_new = k_new.flatten(0, 1), v_new.flatten(0, 1)
            ancestors = None if ancestors is None else ancestors.flatten()
        layers = [(self, k_new, v_new)]
        write(layers, self.lengths, cu_seqlens_q, rows, ancestors, self.max_tokens)

    def reset(self, row: int) -> None:
        """Forget a row's tokens."""
        self._check_row(row)
        self._check_alone("reset")
        self.lengths[row] = 0
        self.forget(row, 0)

    def truncate(self, row: int, length: int) -> None:
        """Keep a row's first ``length`` tokens. Raises ShapeError where a ring no longer can."""
        self._check_alone("truncate")
        self.check_truncate(row, length)
        self.lengths[row] = length
        self.forget(row, length)

    def check_truncate(self, row: int, length: int) -> None:
        """Raise ShapeError unless ``truncate(row, length)`` is possible."""
        self._check_row(row)
        committed = int(self.lengths[row])
        if not 0 <= length <= committed:
            expected = f"a length in [0, {committed}], what row {row} has"
            raise ShapeError("truncate", "length", expected=expected, got=str(length))

    def forget(self, row: int, length: int) -> None:
        """What must change beside ``lengths`` when a row is cut to ``length``."""
        self._ahead = None

    def require_ahead(self) -> None:
        """Raise UnsupportedError unless keys may be stored here before they are committed."""
        self.require(plain=True)
        if self.is_ring:
            reasons = ["a ring's next places hold keys that a step still sees"]
            raise UnsupportedError("rope_cached", reasons, remedy="Use rope, and commit.")

    def write_ahead(self, k: Tensor, v: Tensor, rows: Tensor, positions: Tensor) -> None:
        """Store k [N, Hkv, Dqk] and v [N, Hkv, Dv] at these places [N], uncommitted.

        What ``ops.rope_cached`` does by a kernel. Places that there are not are left out.
        """
        self.require_ahead()
        fits = (rows >= 0) & (rows < self.rows) & (positions >= 0) & (positions < self.capacity)
        rows, positions = rows[fits], positions[fits]
        self.keys[rows, :, positions], self.values[rows, :, positions] = k[fits], v[fits]

    def note_ahead(self, k: Tensor, v: Tensor) -> None:
        """k and v, a step's, are stored behind the committed tokens: a commit need not copy them.

        It does where it is given other tensors, or where the lengths have changed.
        """
        self._ahead = k, v, self.lengths.clone()

    def take_ahead(self, k: Tensor, v: Tensor) -> bool:
        """Whether a commit of k and v finds them stored; what was noted is let go."""
        noted, self._ahead = self._ahead, None
        if noted is None:
            return False
        return noted[0] is k and noted[1] is v and torch.equal(noted[2], self.lengths)

    def unpacked(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """A row's committed tokens as plain tensors, copied; float32 from an 8-bit format.

        Keys [L, Hkv, Dqk], values [L, Hkv, Dv] and positions int64 [L], ascending; a ring has the
        last tokens only.
        """
        self._check_row(row)
        first = 0 if self.held_from is None else int(self.held_from[row])
        length = int(self.lengths[row])
        if self.plain:
            return *plain.unpacked(self, row, first, length), torch.arange(first, length)
        blocks = torch.arange(first // BLOCK, -(-length // BLOCK))
        stored = blocks % self.keys.shape[2]
        k, v = unpack(self.keys[row], self.values[row], stored)
        held = slice(first % BLOCK, first % BLOCK + length - first)
        keys, values = k[held, :, : self.head_dim], v[held, :, : self.v_head_dim]
        return keys.contiguous(), values.contiguous(), torch.arange(first, length)

    def as_stored(self, x: Tensor) -> Tensor:
        """New keys or values [.., D] as they will be read back; see ``cache/formats.py``."""
        return as_stored(x, self.keys.dtype)

    def require(self, *, plain: bool) -> None:
        """Raise UnsupportedError unless the storage is what a GPU, or the CPU, reads."""
        if self.plain != plain:
            made, read = ("a GPU", "the CPU") if self.plain else ("the CPU", "a GPU")
            reasons = [f"the cache was made for {made}, the call runs on {read}"]
            raise UnsupportedError("LayerCache", reasons, remedy="Make the cache where it is used.")

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.rows:
            expected = f"a row in [0, {self.rows})"
            raise ShapeError("cache", "row", expected=expected, got=str(row))

    def _check_alone(self, action: str) -> None:
        if self._shared:
            raise UnsupportedError(
                action,
                ["the layers of a ModelCache have common lengths"],
                remedy=f"Use ModelCache.{action}.",
            )


class GlobalLayerCache(LayerCache):
    """Every committed token, up to ``max_tokens`` a row (storage is rounded up to 64).

    ``kv_format``: "int8" or "e4m3" hold keys and values in half the bytes of "bf16"; by default
    they are held in ``dtype``. Raises UnsupportedError for a format that does not suit ``dtype``.
    """

    def __init__(
        self,
        rows: int,
        max_tokens: int,
        *,
        num_kv_heads: int,
        head_dim: int,
        v_head_dim: int,
        dtype: torch.dtype = torch.bfloat16,
        kv_format: KvFormat | None = None,
        lengths: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if max_tokens < 0:
            raise ShapeError("cache", "max_tokens", expected="at least 0", got=str(max_tokens))
        super().__init__(
            rows,
            -(-max_tokens // BLOCK),
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            v_head_dim=v_head_dim,
            dtype=dtype,
            kv_format=kv_format,
            lengths=lengths,
            max_tokens=max_tokens,
            device=device,
        )


class RingLayerCache(LayerCache):
    """The last ``window_keys - 1`` committed tokens at least (rounded up to 64) of every row.

    A step attends to the ring and to its own tokens, which enter it at commit; the nodes of a
    draft tree that are not accepted never do.
    """

    is_ring = True

    def __init__(
        self,
        rows: int,
        window_keys: int,
        *,
        num_kv_heads: int,
        head_dim: int,
        v_head_dim: int,
        dtype: torch.dtype = torch.bfloat16,
        lengths: Tensor | None = None,
        max_tokens: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if window_keys < 1:
            raise ShapeError("cache", "window_keys", expected="at least 1", got=str(window_keys))
        super().__init__(
            rows,
            max(1, -(-(window_keys - 1) // BLOCK)),
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            v_head_dim=v_head_dim,
            dtype=dtype,
            lengths=lengths,
            max_tokens=max_tokens,
            device=device,
        )
        self.window_keys = window_keys
        self.held_from = torch.zeros(rows, dtype=torch.int64)

    def check_truncate(self, row: int, length: int) -> None:
        super().check_truncate(row, length)
        first = int(self.held_from[row])
        # The next token must still see its whole window.
        if first > 0 and 0 < length < first + self.window_keys - 1:
            raise ShapeError(
                "truncate",
                "length",
                expected=f"0 or at least {first + self.window_keys - 1}: the ring of row {row} "
                f"holds positions from {first} on",
                got=str(length),
                remedy="Reset the row and feed its tokens again.",
            )

    def forget(self, row: int, length: int) -> None:
        super().forget(row, length)
        if length == 0:
            self.held_from[row] = 0


def write(
    layers: Sequence[tuple[LayerCache, Tensor, Tensor]],
    lengths: Tensor,
    cu_seqlens: Tensor,
    rows: Tensor | None,
    ancestors: Tensor | None,
    max_tokens: int | None,
) -> None:
    """Commit a step's (cache, k_new, v_new) of layers with common lengths, all of it or nothing."""
    if layers and layers[0][0].plain:
        plain.commit(layers, lengths, cu_seqlens, rows, ancestors, max_tokens)
        return
    storage = [
        (c.keys, c.values, c.head_dim, c.v_head_dim, c.held_from, k_new, v_new)
        for c, k_new, v_new in layers
    ]
    native("cpu").cache_commit(storage, lengths, cu_seqlens, rows, ancestors, max_tokens)


def native_layers(layers: Sequence[LayerCache], lengths: Tensor, max_tokens: int) -> object:
    """Layers with common lengths as one ``_C.CacheLayers``, which the native step reads."""
    storage = [(c.keys, c.values, c.head_dim, c.v_head_dim, c.held_from) for c in layers]
    return native("cpu").CacheLayers(layers=storage, lengths=lengths, max_tokens=max_tokens)
