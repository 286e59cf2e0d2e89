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

from ..backends import choose, native
from ..cache import ModelCache
from ..ops import PackedWeight
from .attention import Attention
from .batch import Batch
from .embedding import Embedding
from .layer import DecoderLayer, MTPBlock
from .mlp import MLP, Experts, MoE, Router
from .norm import RMSNorm
from .weight import Weight

__all__ = ["NativeDecoder"]

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


@dataclass(frozen=True)
class _Plan:
    decoder: object  # _C.Decoder of the main layers
    blocks: tuple[object, ...]  # of every MTP block
    watch: object  # _C.Watch: whether the modules are still those of the plan
    parameters: tuple[Tensor, ...]
    moe_layers: int
    top_k: int


class NativeDecoder:
    """The plan of one model, made when it is first needed and again when a module has changed."""

    def __init__(self) -> None:
        self._plan: _Plan | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return NativeDecoder, ()  # a copied or pickled model makes its own plan

    def forget(self) -> None:
        """Let go of the weights; the next pass makes a new plan."""
        self._plan = None

    def serves(self, model: nn.Module, x: Tensor, cache: ModelCache | None) -> bool:
        """Whether ``run`` and ``run_block`` can stand in for the modules with this cache."""
        if type(cache) is not ModelCache or is_compiling():
            return False
        if not x.is_cpu or cache.dtype != x.dtype or choose("attention_cached", x) != "cpu":
            return False
        if any(cls.forward is not forward for cls, forward in _FORWARDS.items()):
            return False
        if self._plan is not None and not self._plan.watch.unchanged():
            self._plan = None
        if self._plan is None and model.head.packed:
            self._plan = _make_plan(model)
        if self._plan is None or len(cache.layers) != len(model.model.layers):
            return False
        return not torch.is_grad_enabled() or not any(
            p.requires_grad for p in (x, *self._plan.parameters)
        )

    def run(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [N, D] -> (x after the layers, new keys and values, chosen experts or None).

        Keys and values as ``ModelCache.stage`` takes them in one tensor; experts int32
        [moe layers, N, K].
        """
        plan, routing = self._plan, None
        if plan.moe_layers:
            routing = torch.empty(plan.moe_layers, x.shape[0], plan.top_k, dtype=torch.int32)
        x, staged = _step(plan.decoder, batch.cache.native_layers, x, None, batch, routing)
        return x, staged, routing

    def run_block(self, k: int, x: Tensor, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """MTP block ``k``: embedded x, hidden [N, D] -> (output [N, D], new keys and values)."""
        layers = batch.cache.native_mtp_layers(k)
        return _step(self._plan.blocks[k], layers, x, hidden.contiguous(), batch, None)


def _step(
    decoder: object,
    layers: object,
    x: Tensor,
    hidden: Tensor | None,
    batch: Batch,
    routing: Tensor | None,
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()  # embedded for this pass alone: written in place
    staged = torch.empty(x.shape[0] * layers.staged_per_token, dtype=x.dtype)
    decoder.step(
        layers,
        x=x,
        hidden=hidden,
        cu_seqlens=batch.cu_seqlens,
        ancestors=batch.ancestors,
        staged=staged,
        routing=routing,
        logits=None,
        logit_rows=None,
    )
    return x, staged


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
    head = _packed(model.head)
    bf16 = model.dtype == torch.bfloat16
    _C = native("cpu")
    main = _C.Decoder(
        bf16=bf16,
        join=None,
        layers=[_layer(layer, layer.post_attention_layernorm) for layer in layers],
        norm=_norm(model.model.norm),
        head=head,
    )
    blocks = tuple(
        _C.Decoder(
            bf16=bf16,
            join=_C.JoinWeights(
                embedded=_norm(block.enorm), hidden=_norm(block.hnorm), weight=_packed(block.eh)
            ),
            layers=[_layer(block, block.pre_mlp_layernorm)],
            norm=_norm(block.final_layernorm),
            head=head,
        )
        for block in model.model.mtp.layers
    )
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    return (
        _Plan(
            decoder=main,
            blocks=blocks,
            watch=_watch(model, modules),
            parameters=tuple(p for m in modules for p in m._parameters.values() if p is not None),
            moe_layers=len(moe),
            top_k=moe[0].gate.top_k if moe else 0,
        )
        if all(t is None or t.is_cpu for t in tensors)
        else None
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
