"""A pass of the decoder in one native call.

Between the kernels of a small model's layers, Python takes longer than the kernels. Where nothing
asks for the modules themselves, one call to ``csrc/model`` runs the same kernels in the same order,
with the same bits. The modules remain the definition, and serve whatever this does not: gradients,
another backend, hooks, weights that are not packed, modules of other types.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules import module as torch_module

from .. import backends
from ..backends import native
from ..cache import ModelCache
from ..ops import PackedWeight
from .attention import Attention
from .embedding import Embedding
from .layer import DecoderLayer, MTPBlock
from .mlp import MLP, Experts, MoE, Router
from .norm import RMSNorm
from .weight import Weight

__all__ = ["NativeDecoder", "draft_tokens"]

_KNOWN = (
    Attention,
    DecoderLayer,
    Embedding,
    Experts,
    MLP,
    MTPBlock,
    MoE,
    RMSNorm,
    Router,
    Weight,
    nn.ModuleList,
)
# Replaced methods of these classes are what a caller wants to run.
_FORWARDS = {cls: cls.forward for cls in _KNOWN}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LEAST_DRAFTED, _DRAFTED_PART = 1024, 6


def draft_tokens(vocab_size: int) -> int:
    """How many tokens drafts are chosen from: the first ids, which vocabularies made by merging
    pairs give to the frequent ones. Reading the whole head may take longer than the block."""
    part = -(-vocab_size // _DRAFTED_PART)
    return min(vocab_size, max(_LEAST_DRAFTED, -(-part // 32) * 32))


@dataclass(frozen=True)
class _Plan:
    decoder: object  # _C.Decoder of the main layers
    blocks: tuple[object, ...]  # of every MTP block
    embeds: bool  # whether these look embeddings up themselves
    watch: object  # _C.Watch: whether the modules are still those of the plan
    parameters: tuple[Tensor, ...]
    dtype: torch.dtype
    hidden_size: int
    vocab_size: int
    moe_layers: int
    top_k: int
    narrow: torch.dtype  # of chosen experts


class NativeDecoder:
    """The plan of one model, made when it is first needed and again when a module has changed."""

    def __init__(self) -> None:
        self._plan: _Plan | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return NativeDecoder, ()  # a copied or pickled model makes its own plan

    def forget(self) -> None:
        """Let go of the weights; the next pass makes a new plan."""
        self._plan = None

    def serves(self, model: nn.Module, ids: Tensor, cache: ModelCache | None) -> bool:
        """Whether ``run`` and ``run_block`` can stand in for the modules with this cache."""
        if not ids.is_cpu or ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
            return False
        return self.plan(model, cache) is not None

    def plan(self, model: nn.Module, cache: ModelCache | None) -> _Plan | None:
        """What the native calls read, if they can stand in for the modules with this cache."""
        if type(cache) is not ModelCache or is_compiling():
            return None
        if cache.plain or backends.simulated():
            return None
        if any(cls.forward is not forward for cls, forward in _FORWARDS.items()):
            return None
        if self._plan is not None and not self._plan.watch.unchanged():
            self._plan = None
        if self._plan is None and model.head.packed:
            self._plan = _make_plan(model)
        plan = self._plan
        if (
            plan is None
            or cache.dtype != plan.dtype
            or len(cache.layers) != len(model.model.layers)
        ):
            return None
        if backends.forced() not in (None, "cpu"):
            return None
        if torch.is_grad_enabled() and any(p.requires_grad for p in plan.parameters):
            return None
        return plan

    def run(
        self,
        model: nn.Module,
        ids: Tensor,
        cu_seqlens: Tensor | None,
        cache: ModelCache,
        ancestors: Tensor | None,
        logits: str,
    ) -> tuple[None, Tensor | None, Tensor, Tensor | None]:
        """One pass -> the fields of ``Output``.

        Commits its tokens, or stages them where they are a draft tree. Raises as the modules do.
        """
        plan, layers, routing = self._plan, cache.native_layers, None
        if plan.moe_layers:
            shape = (plan.moe_layers, *ids.shape, plan.top_k)
            routing = torch.empty(shape, dtype=plan.narrow)
        staged = torch.empty(ids.numel() * layers.staged_per_token, dtype=plan.dtype)
        x, out = self._outputs(model, ids, cu_seqlens, logits)
        commit, last = ancestors is None, logits == "last"
        plan.decoder.step(
            layers, ids, None, cu_seqlens, ancestors, x, staged, routing, out, last, commit
        )
        if commit:
            cache.drop_step()
        else:
            cache.stage(staged, _bounds(ids, cu_seqlens), ancestors.flatten())
        return None, out, x, routing

    def run_block(
        self,
        model: nn.Module,
        k: int,
        ids: Tensor,
        hidden: Tensor,
        cu_seqlens: Tensor | None,
        cache: ModelCache,
        ancestors: Tensor | None,
        logits: str,
    ) -> tuple[None, Tensor | None, Tensor]:
        """MTP block ``k`` -> the fields of ``Output``; stages its keys and values."""
        layers = cache.native_mtp_layers(k)
        staged = torch.empty(ids.numel() * layers.staged_per_token, dtype=self._plan.dtype)
        x, out = self._outputs(model, ids, cu_seqlens, logits)
        hidden, last = hidden.contiguous(), logits == "last"
        self._plan.blocks[k].step(
            layers, ids, hidden, cu_seqlens, ancestors, x, staged, None, out, last, False
        )
        cache.stage_mtp(k, staged, _bounds(ids, cu_seqlens))
        return None, out, x

    def _outputs(
        self, model: nn.Module, ids: Tensor, cu_seqlens: Tensor | None, logits: str
    ) -> tuple[Tensor, Tensor | None]:
        """Room for hidden states, holding the embedded tokens where needed, and for logits."""
        plan = self._plan
        if plan.embeds:
            x = torch.empty(*ids.shape, plan.hidden_size, dtype=plan.dtype)
        else:
            model.check_ids(ids, "input_ids")
            x = model.model.embed_tokens(ids.flatten()).reshape(*ids.shape, -1).contiguous()
        if logits == "none":
            return x, None
        rows = ids.shape if logits == "all" else (_sequences(ids, cu_seqlens),)
        return x, torch.empty(*rows, plan.vocab_size)


def _sequences(ids: Tensor, cu_seqlens: Tensor | None) -> int:
    return ids.shape[0] if cu_seqlens is None else max(cu_seqlens.numel() - 1, 0)


def _bounds(ids: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    if cu_seqlens is not None:
        return cu_seqlens
    return torch.arange(ids.shape[0] + 1) * ids.shape[1]


# ---------------------------------------------------------------------- from modules to plans


def _make_plan(model: nn.Module) -> _Plan | None:
    """None where a module is not of the known kind, has hooks, or holds an unpacked weight."""
    modules = [m for m in model.modules() if m is not model]
    known = (*_KNOWN, type(model.model), type(model.model.mtp))
    for module in modules:
        if type(module) not in known or "forward" in module.__dict__:
            return None
        if any(module.__dict__[hooks] for hooks in _HOOKS) or not _fits(module, model.dtype):
            return None
    layers = model.model.layers
    moe = [layer.mlp for layer in layers if isinstance(layer.mlp, MoE)]
    head, (table, tied) = _packed(model.head), _embedding(model)
    bf16 = model.dtype == torch.bfloat16
    drafted = draft_tokens(model.config.vocab_size)
    _C = native("cpu")
    main = _C.Decoder(
        bf16=bf16,
        embedding=table,
        tied=tied,
        join=None,
        layers=[_layer(layer, layer.post_attention_layernorm) for layer in layers],
        norm=_norm(model.model.norm),
        head=head,
        draft_tokens=drafted,
    )
    blocks = tuple(
        _C.Decoder(
            bf16=bf16,
            embedding=table,
            tied=tied,
            join=_C.JoinWeights(
                embedded=_norm(block.enorm), hidden=_norm(block.hnorm), weight=_packed(block.eh)
            ),
            layers=[_layer(block, block.pre_mlp_layernorm)],
            norm=_norm(block.final_layernorm),
            head=head,
            draft_tokens=drafted,
        )
        for block in model.model.mtp.layers
    )
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    if not all(t is None or t.is_cpu for t in tensors):
        return None
    return _Plan(
        decoder=main,
        blocks=blocks,
        embeds=tied or table is not None,
        watch=_watch(model, modules),
        parameters=tuple(p for m in modules for p in m._parameters.values() if p is not None),
        dtype=model.dtype,
        hidden_size=model.config.hidden_size,
        vocab_size=model.config.vocab_size,
        moe_layers=len(moe),
        top_k=moe[0].gate.top_k if moe else 0,
        narrow=torch.uint8 if model.config.n_routed_experts <= 256 else torch.int16,
    )


def _fits(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the native ops take this module's own weights beside activations of ``dtype``."""
    wide = (dtype, torch.float32)
    if isinstance(module, Weight):
        return module.packed and module.weight.dtype in wide
    if isinstance(module, RMSNorm):
        return module.weight.dtype in wide
    if isinstance(module, MLP | Experts):
        pair = (module.gate_up.weight, module.down.weight)
        return len({w.format for w in pair if isinstance(w, PackedWeight)}) == 1
    return True


def _layer(layer: DecoderLayer | MTPBlock, before_mlp: RMSNorm) -> object:
    _C = native("cpu")
    attention, mlp, router = layer.self_attn, layer.mlp, None
    c = attention.config
    if isinstance(mlp, MoE):
        gate, mlp = mlp.gate, mlp.experts
        router = _C.RouterWeights(
            proj=_packed(gate.proj),
            bias=gate.e_score_correction_bias,
            top_k=gate.top_k,
            n_group=gate.n_group,
            topk_group=gate.topk_group,
            normalize=gate.normalize,
            scaling=gate.scaling,
        )
    return _C.DecoderLayer(
        before_attention=_norm(layer.input_layernorm),
        attention=_C.AttentionWeights(
            qkv=_packed(attention.qkv),
            o=_packed(attention.o),
            q_heads=c.num_q_heads,
            kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            v_head_dim=c.v_head_dim,
            theta=c.rope_theta,
            rotary_dim=c.rotary_dim,
            value_scale=c.value_scale,
            window_keys=c.window_keys,
            sink=attention.attention_sink_bias,
        ),
        before_mlp=_norm(before_mlp),
        gate_up=_packed(mlp.gate_up),
        down=_packed(mlp.down),
        router=router,
    )


def _embedding(model: nn.Module) -> tuple[Tensor | None, bool]:
    """The table of embeddings, or whether it is the head; neither where only Python knows rows."""
    table = model.model.embed_tokens.weight
    if table is None:
        head = model.head.weight
        return None, head.format in ("bf16", "f32") and head.dtype == model.dtype
    return (table if table.dtype == model.dtype and table.is_contiguous() else None), False


def _packed(weight: Weight) -> tuple[Tensor, object]:
    return weight.weight.storage, weight.weight.layout


def _norm(norm: RMSNorm) -> tuple[Tensor, float]:
    return norm.weight, norm.eps


def _watch(model: nn.Module, modules: list[nn.Module]) -> object:
    """What must stay as it is for the plan to hold."""
    # Not the model's own attributes: they lead to the plan, and the cycle would never be freed.
    entries = list(_entries(model._modules))
    empty = [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
    for module in modules:
        for held in (module._modules, module._parameters, module._buffers):
            entries += _entries(held)
        entries.append((module.__dict__, "forward", module.__dict__))
        if isinstance(module, Weight):
            entries.append((module.__dict__, "weight", module.weight))
        empty += [module.__dict__[hooks] for hooks in _HOOKS]
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    return native("cpu").Watch(entries, empty, [t for t in tensors if t is not None])


def _entries(held: dict[str, object]) -> Iterator[tuple[dict[str, object], str, object]]:
    return ((held, name, value) for name, value in held.items())
