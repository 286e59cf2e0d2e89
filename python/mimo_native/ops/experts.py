"""SwiGLU feed-forward layers, dense and routed.

The order of every sum is fixed: a token's result has the same bits whatever other tokens the call
holds, and however many threads. The backward keeps the gate and up sums of the forward; the output
of the down product is needed by no gradient and is never stored.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register, wants_grad
from ..errors import UnsupportedError
from ._library import register_op
from ._packed import empty_large
from .gemm import (
    PackedWeight,
    any_weight,
    evenly_spaced,
    flat_weight,
    native_weight,
    plain_weights,
    require_weight,
    weight_shape,
)

__all__ = ["expert_mlp", "swiglu", "swiglu_mlp"]

_FLOATS = (torch.float32, torch.bfloat16)
register("swiglu", "cpu", dtypes=_FLOATS, gradient=True)
register("swiglu_mlp", "cpu", dtypes=_FLOATS, gradient=True)
register("expert_mlp", "cpu", dtypes=_FLOATS, gradient=True)
register("swiglu", "cuda", dtypes=_FLOATS)
register("swiglu_mlp", "cuda", dtypes=_FLOATS, limit=plain_weights)
register("expert_mlp", "cuda", dtypes=_FLOATS, limit=plain_weights)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up in float32, not clamped, rounded once. Differentiable.

    gate_up [.., 2F] float32 or bfloat16, gate first -> [.., F]. Raises ShapeError.
    """
    if is_compiling():
        return torch.ops.mimo_native.swiglu(gate_up)
    backend = choose("swiglu", gate_up)
    if backend == "reference":
        return reference.swiglu(gate_up)
    if wants_grad(gate_up):
        return _Swiglu.apply(gate_up)
    rows = evenly_spaced(gate_up)
    y = native(backend).swiglu(rows)
    return y if rows is gate_up else y.view(*gate_up.shape[:-1], y.shape[-1])


def swiglu_mlp(
    x: Tensor, w_gate_up: Tensor | PackedWeight, w_down: Tensor | PackedWeight
) -> Tensor:
    """y = W_down (silu(W_gate x) * (W_up x)); the activations are rounded to the weights' dtype.

    x [.., D] float32 or bfloat16, w_gate_up [2F, D] gate rows first, w_down [D, F], both plain or
    both packed, of x's dtype or float32 for bfloat16 rows -> [.., D] in x's dtype. Differentiable
    in x and plain weights. Raises ShapeError naming the argument.
    """
    return _layer("swiglu_mlp", x, w_gate_up, w_down, None, None)


def expert_mlp(
    x: Tensor,
    w_gate_up: Tensor | PackedWeight,
    w_down: Tensor | PackedWeight,
    ids: Tensor,
    weights: Tensor,
) -> Tensor:
    """y_t = sum over slots k, in slot order, of weights_tk * SwiGLU-MLP of expert ids_tk at x_t.

    x [T, D] float32 or bfloat16, w_gate_up [E, 2F, D] gate rows first, w_down [E, D, F], both plain
    or both packed, ids [T, K] int32 below E, weights [T, K] float32 -> [T, D] in x's dtype. No
    token is dropped; an expert may receive no row. Differentiable in x, weights and plain weight
    tensors. The MoE layer of the report, section 2. Raises ShapeError naming the argument, before
    any work; on a GPU, where no id is looked at, one that does not exist makes its token NaN.
    """
    return _layer("expert_mlp", x, w_gate_up, w_down, ids, weights)


def _layer(
    op: str,
    x: Tensor,
    w_gate_up: Tensor | PackedWeight,
    w_down: Tensor | PackedWeight,
    ids: Tensor | None,
    weights: Tensor | None,
) -> Tensor:
    """Both layers; the dense one has no ids and weights."""
    routing = () if ids is None else (ids, weights)
    if is_compiling():
        save = wants_grad(x, w_gate_up, w_down, weights)
        flat = (*flat_weight(w_gate_up), *flat_weight(w_down))
        return torch.ops.mimo_native.expert_mlp(x, *flat, ids, weights, save)[0]
    backend = choose(op, x, w_gate_up, w_down, *routing)
    if backend == "reference":
        return getattr(reference, op)(x, w_gate_up, w_down, *routing)
    if wants_grad(x, w_gate_up, w_down, weights):
        return _Layer.apply(x, w_gate_up, w_down, ids, weights)
    return _forward(op, backend, x, w_gate_up, w_down, routing, None)


def _forward(
    op, backend, x, w_gate_up, w_down, routing: tuple[Tensor, ...], saved: Tensor | None
) -> Tensor:
    ndim, symbols = (3, ("[E, 2F, D]", "[E, D, F]")) if routing else (2, ("[2F, D]", "[D, F]"))
    require_weight(op, w_gate_up, ndim, symbols[0], "w_gate_up")
    require_weight(op, w_down, ndim, symbols[1], "w_down")
    call = getattr(native(backend), op)
    packed = (*native_weight(w_gate_up), *native_weight(w_down))
    rows = x if routing else evenly_spaced(x)
    y = call(rows, *packed, *routing, saved)
    return y if rows is x else y.view(x.shape)


def _forward_and_save(x, w_gate_up, w_down, ids, weights) -> tuple[Tensor, Tensor]:
    """The layer and what its backward needs: gate and up sums of the (token, slot) rows."""
    op, routing = ("swiglu_mlp", ()) if ids is None else ("expert_mlp", (ids, weights))
    coded = [w.format for w in (w_gate_up, w_down) if isinstance(w, PackedWeight) and w.coded]
    if coded:
        remedy = "Unpack the weights, or call it under torch.no_grad()."
        raise UnsupportedError(op, [f"no gradient through {coded[0]} weights"], remedy=remedy)
    rows = x.shape[:-1].numel() * (1 if ids is None else ids.shape[-1])
    saved = empty_large((rows, w_gate_up.shape[-2]), w_gate_up.dtype)
    return _forward(op, "cpu", x, w_gate_up, w_down, routing, saved), saved


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return swiglu(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> Tensor:
        return _swiglu_backward(dy, *ctx.saved_tensors)


def _swiglu_backward(dy: Tensor, gate_up: Tensor) -> Tensor:
    d_gate_up = torch.empty(gate_up.shape, dtype=gate_up.dtype)
    native("cpu").swiglu_grad(dy.contiguous(), gate_up.contiguous(), d_gate_up)
    return d_gate_up


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_gate_up, w_down, ids, weights) -> Tensor:
        y, saved = _forward_and_save(x, w_gate_up, w_down, ids, weights)
        (g, ctx.g_spec), (d, ctx.d_spec) = flat_weight(w_gate_up), flat_weight(w_down)
        ctx.save_for_backward(x, g, d, ids, weights, saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, g, d, ids, weights, saved = ctx.saved_tensors
        needs = [ctx.needs_input_grad[i] for i in (0, 1, 2, 4)]
        g, d = any_weight(g, ctx.g_spec), any_weight(d, ctx.d_spec)
        dx, dg, dd, dweights = _layer_backward(dy, x, g, d, ids, weights, saved, needs)
        return dx, dg, dd, None, dweights


def _layer_backward(dy, x, w_gate_up, w_down, ids, weights, saved, needs) -> list[Tensor | None]:
    """Gradients of x, w_gate_up, w_down and weights, where needed."""
    dtype = w_gate_up.dtype
    plain = [w.unpack() if isinstance(w, PackedWeight) else w for w in (w_gate_up, w_down)]
    width, ffn = w_down.shape[-2:]
    rows = [t.to(dtype).reshape(-1, width).contiguous() for t in (dy, x)]
    work = [empty_large((saved.shape[0], columns), dtype) for columns in (2 * ffn, ffn)]
    dx = torch.empty(rows[1].shape, dtype=dtype) if needs[0] else None
    dg, dd = (
        empty_large(w.shape, dtype) if need else None
        for w, need in zip(plain, needs[1:3], strict=True)
    )
    dweights = torch.empty(weights.shape) if needs[3] else None
    stacked = [t[None] if t is not None and t.ndim == 2 else t for t in (dg, dd)]
    native("cpu").expert_mlp_backward(
        *rows, *plain, ids, weights, saved, *work, dx, dweights, *stacked
    )
    return [dx.reshape(x.shape).to(x.dtype) if needs[0] else None, dg, dd, dweights]


def _registered(x, g, g_spec, d, d_spec, ids, weights, save):
    g, d = any_weight(g, g_spec), any_weight(d, d_spec)
    if save:
        return _forward_and_save(x, g, d, ids, weights)
    y = swiglu_mlp(x, g, d) if ids is None else expert_mlp(x, g, d, ids, weights)
    return y, x.new_empty(0)


def _fake(x, g, g_spec, d, d_spec, ids, weights, save):
    slots = 1 if ids is None else ids.shape[1]
    width = weight_shape(g, g_spec)[-2]
    dtype = any_weight(g, g_spec).dtype
    rows = x.shape[:-1].numel() * slots
    return torch.empty_like(x, memory_format=torch.contiguous_format), (
        x.new_empty((rows, width), dtype=dtype) if save else x.new_empty(0)
    )


def _setup_context(ctx, inputs, output) -> None:
    x, g, ctx.g_spec, d, ctx.d_spec, ids, weights, _ = inputs
    ctx.save_for_backward(x, g, d, ids, weights, output[1])


def _backward(ctx, dy, _):
    x, g, d, ids, weights, saved = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 3, 6)]
    needs[1], needs[2] = needs[1] and ctx.g_spec is None, needs[2] and ctx.d_spec is None
    grads = torch.ops.mimo_native.expert_mlp_backward(
        dy, x, g, ctx.g_spec, d, ctx.d_spec, ids, weights, saved, needs
    )
    dx, dg, dd, dweights = (g if need else None for g, need in zip(grads, needs, strict=True))
    return dx, dg, None, dd, None, None, dweights, None


def _registered_backward(dy, x, g, g_spec, d, d_spec, ids, weights, saved, needs):
    g, d = any_weight(g, g_spec), any_weight(d, d_spec)
    grads = _layer_backward(dy, x, g, d, ids, weights, saved, needs)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


def _fake_backward(dy, x, g, g_spec, d, d_spec, ids, weights, saved, needs):
    likes = (x, g, d, weights)
    return tuple(
        like.new_empty(like.shape) if need else x.new_empty(0)
        for like, need in zip(likes, needs, strict=True)
    )


register_op(
    "swiglu(Tensor gate_up) -> Tensor",
    swiglu,
    lambda gate_up: gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2)),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    backward=lambda ctx, dy: torch.ops.mimo_native.swiglu_backward(dy, *ctx.saved_tensors),
)
register_op(
    "swiglu_backward(Tensor dy, Tensor gate_up) -> Tensor",
    _swiglu_backward,
    lambda dy, gate_up: gate_up.new_empty(gate_up.shape),
)
register_op(
    "expert_mlp(Tensor x, Tensor g, int[]? g_spec, Tensor d, int[]? d_spec, Tensor? ids,"
    " Tensor? weights, bool save) -> (Tensor, Tensor)",
    _registered,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
register_op(
    "expert_mlp_backward(Tensor dy, Tensor x, Tensor g, int[]? g_spec, Tensor d, int[]? d_spec,"
    " Tensor? ids, Tensor? weights, Tensor saved, bool[4] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _registered_backward,
    _fake_backward,
)
