"""The model: embedding, decoder layers, final norm, head, and the MTP blocks beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from .. import ops
from ..cache import KvFormat, ModelCache
from ..config import MiMoConfig
from ..errors import ShapeError, UnsupportedError
from .batch import Batch, pack_batch
from .embedding import Embedding
from .layer import DecoderLayer, MTPBlock
from .native import NativeDecoder
from .norm import RMSNorm
from .weight import HubNames, Weight, wide

if TYPE_CHECKING:
    from ..text import Tokenizer

__all__ = ["MiMoForCausalLM", "MiMoModel", "Output"]

LogitsMode = Literal["all", "last", "none"]
MODES = get_args(LogitsMode)


@dataclass
class Output:
    """What a forward pass returns; fields that were not asked for are None.

    loss: mean cross-entropy over labelled positions. logits [B, T, V], or [B, V] of the last token
    ([S, V] with cu_seqlens) for logits="last". hidden [B, T, D]: before the final norm. routing
    [moe layers, B, T, K]: expert ids, uint8 for up to 256 experts, else int16.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    routing: Tensor | None = None


class MTP(nn.Module):
    """Holder of the MTP blocks, so that their names are model.mtp.layers.{k}."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MTPBlock(config) for _ in range(config.num_mtp_layers))


class MiMoModel(nn.Module):
    """Embedding, decoder layers and final norm."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, config.layer(i)) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mtp = MTP(config)


class MiMoForCausalLM(HubNames):
    """The language model with its head; state-dict names are those of the released checkpoints."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.config = config
        self.model = MiMoModel(config)
        # Tied: one matrix, known to checkpoints as the embedding.
        name = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        self.head = Weight({name: config.vocab_size}, config.hidden_size)
        if config.tie_word_embeddings:
            self.model.embed_tokens.tie(self.head, self.model.norm)
        self.tokenizer: Tokenizer | None = None
        self._native = NativeDecoder()
        self.eval()

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        input_ids: Tensor,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        cache: ModelCache | None = None,
        ancestors: Tensor | None = None,
        replay_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits: LogitsMode = "all",
    ) -> Output:
        """One pass over input_ids int64 [B, T], or [1, T] packed documents with cu_seqlens [S + 1].

        cache: rows are the sequences; their committed tokens come before input_ids, and the pass
        commits its own at the end, unless ``ancestors`` (int64 [B, T], bit j = node j of the row
        is an ancestor or the node itself) makes them a draft tree: then ``cache.commit`` is the
        caller's. replay_ids [moe layers, B, T, K] replaces the router's choice. labels [B, T]:
        token ids, -100 = no target; a position is trained on the label after it, within its
        document. Raises ShapeError; a failed call leaves the cache as it was.
        """
        plain = position_ids is None and attention_mask is None and labels is None
        plain = plain and replay_ids is None and logits in MODES
        if plain and self._native.serves(self, input_ids, cache):
            return Output(*self._native.run(self, input_ids, cu_seqlens, cache, ancestors, logits))
        self._check_labels(labels, input_ids.shape)
        batch = self._pack(
            input_ids, position_ids, attention_mask, cu_seqlens, cache, ancestors, replay_ids
        )
        x = self.model.embed_tokens(batch.take(input_ids))
        x, keys_values, routing = self._run_layers(x, batch, replay_ids)
        out = self._finish(batch, x, labels, logits, shift=1)
        if routing is not None:
            narrow = torch.uint8 if self.config.n_routed_experts <= 256 else torch.int16
            out.routing = torch.stack([batch.put(ids) for ids in routing.to(narrow)])
        if cache is not None:
            cache.stage(keys_values, batch.cu_seqlens, batch.ancestors)
            if ancestors is None:
                cache.commit()
        return out

    def _run_layers(
        self, x: Tensor, batch: Batch, replay_ids: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor | None]:
        """The decoder module by module.

        x [N, D] -> (x, each layer's keys and values, the chosen experts [moe layers, N, K] or None)
        """
        routing: list[Tensor] = []
        keys_values: list[tuple[Tensor, Tensor]] = []
        for i, layer in enumerate(self.model.layers):
            layer_cache = None if batch.cache is None else batch.cache.layers[i]
            replay = None
            if replay_ids is not None and self.config.layer(i).moe:
                replay = batch.take(replay_ids[len(routing)]).to(x.device, torch.int32)
            x, k, v, routed = layer(x, batch, layer_cache, replay)
            keys_values.append((k, v))
            if routed is not None:
                routing.append(routed.ids)
        return x, keys_values, torch.stack(routing) if routing else None

    def mtp(
        self,
        k: int,
        next_ids: Tensor,
        hidden: Tensor,
        *,
        position_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        cache: ModelCache | None = None,
        ancestors: Tensor | None = None,
        labels: Tensor | None = None,
        logits: LogitsMode = "all",
    ) -> Output:
        """MTP block ``k`` (0-based): logits for token i + 2 + k at position i.

        next_ids [B, T]: token i + 1 + k; hidden [B, T, D]: the main model's hidden state at i,
        before its final norm, the same for every block. labels [B, T] as in ``forward`` (not
        shifted): position i is trained on the label k + 2 later within its document. cache: rows
        attend to the block's committed rows; ``cache.commit_mtp(k)`` commits. ancestors int64
        [B, T] as in ``forward``: the rows are a tree, of which only the first rows, a chain, may
        be committed. Output.hidden is the block's, after its final norm.
        """
        if not 0 <= k < self.config.num_mtp_layers:
            raise ShapeError(
                "mtp", "k", expected=f"0 <= k < {self.config.num_mtp_layers}", got=str(k)
            )
        expected = (*next_ids.shape, self.config.hidden_size)
        if tuple(hidden.shape) != expected:
            raise ShapeError(
                "mtp",
                "hidden",
                expected=f"[B, T, D] = {list(expected)}",
                got=str(list(hidden.shape)),
            )
        plain = position_ids is None and labels is None and logits in MODES
        plain = plain and not hidden.requires_grad
        if plain and self._native.serves(self, next_ids, cache):
            return Output(
                *self._native.run_block(
                    self, k, next_ids, hidden, cu_seqlens, cache, ancestors, logits
                )
            )
        self.check_ids(next_ids, "next_ids")
        self._check_labels(labels, next_ids.shape)
        batch = pack_batch(
            tuple(next_ids.shape),
            device=next_ids.device,
            position_ids=position_ids,
            attention_mask=None,
            cu_seqlens=cu_seqlens,
            lengths=None if cache is None else cache.mtp_lengths(k),
            ancestors=ancestors,
            cache=cache,
        )
        embedded = self.model.embed_tokens(batch.take(next_ids))
        layer_cache = None if cache is None else cache.mtp_layers[k]
        block = self.model.mtp.layers[k]
        x, keys, values = block(embedded, batch.take(hidden), batch, layer_cache)
        out = self._finish(batch, x, labels, logits, shift=k + 2, normed=True)
        if cache is not None:
            cache.stage_mtp(k, [(keys, values)], batch.cu_seqlens)
        return out

    def _pack(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        cache: ModelCache | None,
        ancestors: Tensor | None,
        replay_ids: Tensor | None,
    ) -> Batch:
        self.check_ids(input_ids, "input_ids")
        if ancestors is not None and cache is None:
            raise ShapeError("forward", "ancestors", expected="a cache beside them", got="None")
        batch = pack_batch(
            tuple(input_ids.shape),
            device=input_ids.device,
            position_ids=position_ids,
            attention_mask=attention_mask,
            cu_seqlens=cu_seqlens,
            lengths=None if cache is None else cache.lengths,
            ancestors=ancestors,
            cache=cache,
        )
        if cache is not None:
            cache.check_room(batch.cu_seqlens, tree=ancestors is not None)
            batch.store_ahead()
        if replay_ids is not None:
            moe_layers = sum(self.config.moe_layer_freq)
            expected = (moe_layers, *input_ids.shape, self.config.num_experts_per_tok)
            if tuple(replay_ids.shape) != expected:
                raise ShapeError(
                    "forward",
                    "replay_ids",
                    expected=f"[moe layers, B, T, K] = {list(expected)}",
                    got=str(list(replay_ids.shape)),
                )
        return batch

    def check_ids(self, ids: Tensor, argument: str) -> None:
        """Raise ShapeError unless ``ids`` are [B, T] tokens of this model's vocabulary."""
        device = self.device
        right_kind = ids.dtype in (torch.int64, torch.int32) and ids.device == device
        if ids.ndim != 2 or not right_kind:
            raise ShapeError(
                "forward",
                argument,
                expected=f"int64 [B, T] on {device}",
                got=f"{ids.dtype} {list(ids.shape)} on {ids.device}",
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab_size:
            raise ShapeError(
                "forward",
                argument,
                expected=f"token ids in [0, {self.config.vocab_size})",
                got=f"[{int(ids.min())}, {int(ids.max())}]",
                remedy="Use the tokenizer of this model.",
            )

    def _check_labels(self, labels: Tensor | None, shape: tuple[int, ...]) -> None:
        if labels is None:
            return
        if tuple(labels.shape) != tuple(shape):
            raise ShapeError(
                "forward",
                "labels",
                expected=f"the shape of input_ids, {list(shape)}",
                got=str(list(labels.shape)),
            )
        vocab = self.config.vocab_size
        wrong = (labels != -100) & ((labels < 0) | (labels >= vocab))
        if bool(wrong.any()):
            raise ShapeError(
                "forward",
                "labels",
                expected=f"token ids in [0, {vocab}), or -100 for no target",
                got=str(int(labels[wrong][0])),
            )

    def _finish(
        self,
        batch: Batch,
        x: Tensor,
        labels: Tensor | None,
        mode: LogitsMode,
        *,
        shift: int,
        normed: bool = False,
    ) -> Output:
        """Head and loss on packed x [N, D]; a position's label is ``shift`` tokens later."""
        if mode not in MODES:
            raise ShapeError(
                "forward", "logits", expected='"all", "last" or "none"', got=repr(mode)
            )
        out = Output(hidden=batch.put(x))
        if mode == "none" and labels is None:
            return out
        if not normed:
            x = self.model.norm(x)
        if labels is not None:
            targets = _shift_labels(batch, labels, shift)
            out.loss = ops.linear_cross_entropy(x, self.head.weight, targets)
        if mode == "all":
            out.logits = batch.put(self.head(x, out_dtype=wide(x)))
        elif mode == "last":
            out.logits = self.head(x[batch.last_index], out_dtype=wide(x))
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states before the final norm [.., D] -> logits [.., V], float32 or wider."""
        return self.head(self.model.norm(hidden), out_dtype=wide(hidden))

    # ------------------------------------------------------------------ weights and caches

    def new_cache(
        self, batch: int, max_tokens: int, *, kv_format: KvFormat | None = None
    ) -> ModelCache:
        """An empty cache for ``batch`` sequences of up to ``max_tokens`` tokens each.

        ``kv_format``: how the global layers store keys and values, "bf16", "int8" or "e4m3"; by
        default as they are computed. Raises UnsupportedError where the model's dtype is another.
        """
        return ModelCache.for_config(
            self.config,
            batch,
            max_tokens,
            dtype=self.dtype,
            kv_format=kv_format,
            device=self.device,
        )

    @property
    def device(self) -> torch.device:
        """Where the activations are, and ids have to be."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The activations' dtype."""
        return self.model.norm.weight.dtype

    def pack(self, format: str | Mapping[str, str] | None = None) -> "MiMoForCausalLM":
        """Bring every weight into the kernels' layout, in place: faster, inference only.

        format: as ``weight_format`` of ``from_pretrained``, but "stored". The router stays float32,
        norms and an embedding of its own stay what they are. Raises UnsupportedError.
        """
        from ..weights.formats import resolve_formats

        formats = resolve_formats(self.config.unquantized(), format, self.dtype)
        if "stored" in formats.values():
            raise UnsupportedError("pack", ['"stored" is a format of checkpoints'])
        self._native.forget()
        for prefix, module in self.named_modules():
            if isinstance(module, Weight):
                part = next(module.parts()).hub_name
                module.pack(formats[f"{prefix.rpartition('.')[0]}.{part}".lstrip(".")])
        return self.requires_grad_(False)

    def unpack(self) -> "MiMoForCausalLM":
        """Back to trainable parameters."""
        self._native.forget()
        for module in self.modules():
            if isinstance(module, Weight):
                module.unpack()
        return self

    def init_weights(self, *, std: float | None = None, seed: int = 0) -> "MiMoForCausalLM":
        """Normal weights with ``std`` (default: the config's); norms 1, sinks and biases 0."""
        generator = torch.Generator().manual_seed(seed)
        std = self.config.initializer_range if std is None else std
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, std, generator=generator)
        return self

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        weight_format: str | Mapping[str, str] | None = None,
        window_keys: int | None = None,
        mtp: str | Path | None = None,
    ) -> "MiMoForCausalLM":
        """Load a checkpoint directory or a GGUF file for inference, packed tensor by tensor.

        weight_format: a format of ``ops.pack`` for all linear weights, or one for some of
        "attention", "dense", "experts", "head" and "mtp"; the rest, and None, have that of
        ``dtype``. "stored" keeps weights that the files hold as codes exactly as these codes: FP8
        blocks, mxfp4, Q8_0, Q4_0, Q4_1. window_keys overrides the config's. mtp: a directory of MTP
        heads for a checkpoint that has none. Raises CheckpointError or UnsupportedError before
        anything is built where the files do not fit.
        """
        from ..weights.load import load_model

        return load_model(
            path, dtype=dtype, weight_format=weight_format, window_keys=window_keys, mtp=mtp
        )

    def save_pretrained(self, path: str | Path) -> None:
        """Write config.json and safetensors under the hub's names, replacing a checkpoint whole."""
        from ..weights.writer import save_checkpoint

        save_checkpoint(self.hub_tensors(), self.config, path)

    def hub_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state dict as a stream: packed weights are unpacked one module at a time."""
        for prefix, module in self.named_modules():
            tensors: dict[str, Tensor] = {}
            module._save_to_state_dict(tensors, f"{prefix}." if prefix else "", keep_vars=False)
            yield from tensors.items()


def _shift_labels(batch: Batch, labels: Tensor, shift: int) -> Tensor:
    """Label of position i + shift at position i within its document, else -100: int64 [N]."""
    packed = batch.take(labels).to(batch.positions.device, torch.int64)
    targets = torch.full_like(packed, -100)
    if shift < packed.shape[0]:
        sequence = torch.repeat_interleave(
            torch.arange(batch.cu_seqlens.numel() - 1), batch.cu_seqlens.diff().long()
        )
        same = (sequence[shift:] == sequence[:-shift]).to(packed.device)
        targets[:-shift] = torch.where(same, packed[shift:], -100)
    return targets
