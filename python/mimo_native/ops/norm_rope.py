"""RMSNorm and rotary position embedding with value scale."""

from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register, wants_grad
from ..cache import LayerCache
from ._library import autograd_of, register_op

__all__ = ["rms_norm", "rope", "rope_cached", "rope_table"]

_FLOATS = (torch.float32, torch.bfloat16)
register("rms_norm", "cpu", dtypes=_FLOATS, options=("eps",), gradient=True)
register("rms_norm", "cuda", dtypes=_FLOATS, options=("eps",))
register("rope_table", "cpu", dtypes=(torch.int64,), options=("theta", "rotary_dim"))
register("rope_table", "cuda", dtypes=(torch.int64,), options=("theta", "rotary_dim"))
register("rope", "cuda", dtypes=_FLOATS, options=("value_scale",))
register("rope", "cpu", dtypes=_FLOATS, options=("value_scale",), gradient=True)
register("rope_cached", "cuda", dtypes=_FLOATS, options=("rows", "positions", "value_scale"))


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dim.

    x [.., D] float32 or bfloat16, weight [D] of x's dtype or float32 -> y like x. Statistics and
    the product are float32, rounded once. Differentiable in x and weight. Raises ShapeError naming
    the argument.
    """
    if is_compiling():
        return torch.ops.mimo_native.rms_norm(x, weight, eps)
    needs_grad = wants_grad(x, weight)
    backend = choose("rms_norm", x, weight, needs_grad=needs_grad)
    if backend == "reference":
        return reference.rms_norm(x, weight, eps=eps)
    if needs_grad:
        return _RmsNorm.apply(x, weight, eps)
    return native(backend).rms_norm(x, weight, eps)


def rope_table(positions: Tensor, *, theta: float, rotary_dim: int) -> Tensor:
    """Cosines and sines of the rotation angles, one row per token.

    positions [N] int64 -> float32 [N, rotary_dim]: cos in the first half, sin in the second, of
    angle = float32(position) * frequency_j, j < rotary_dim / 2; see the reference for the latter.
    """
    if is_compiling():
        return torch.ops.mimo_native.rope_table(positions, theta, rotary_dim)
    backend = choose("rope_table", positions)
    if backend == "reference":
        return reference.rope_table(positions, theta=theta, rotary_dim=rotary_dim)
    return native(backend).rope_table(positions, theta, rotary_dim)


def rope(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, *, value_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate the first rotary_dim dims of every q and k head and scale v.

    q [N, Hq, Dqk], k [N, Hkv, Dqk], v [N, Hkv, Dv], float32 or bfloat16, strides free but for the
    last dim; table from rope_table [N, rotary_dim]. Half-split pairing: dim j with
    j + rotary_dim / 2. Returns new dense q, k, v; differentiable in all three. Section 2.1 of the
    report (partial RoPE).
    """
    if is_compiling():
        return torch.ops.mimo_native.rope(q, k, v, table, value_scale)
    needs_grad = wants_grad(q, k, v)
    backend = choose("rope", q, k, v, needs_grad=needs_grad)
    if backend == "reference":
        return reference.rope(q, k, v, table, value_scale=value_scale)
    if needs_grad:
        return _Rope.apply(q, k, v, table, value_scale)
    return native(backend).rope(q, k, v, table, value_scale, False)


def rope_cached(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    layer_cache: LayerCache,
    *,
    rows: Tensor,
    positions: Tensor,
    value_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`rope`, and k and v are in a global layer's cache afterwards, uncommitted.

    rows, positions int64 [N]: the cache's row that token i belongs to, and its position there, not
    below the row's length; nobody sees it before a commit. On a GPU they are not checked: a token
    whose place does not exist is not stored. The cache holds what is computed, in q's dtype, on its
    device. Returns new dense q, k, v, which a step attends to. For GPUs; the CPU packs keys at
    commit. Raises ShapeError naming the argument, and UnsupportedError for a ring, whose places
    still hold keys that a step sees.
    """
    backend = choose("rope_cached", q, k, v)
    if backend == "reference":
        return reference.rope_cached(
            q, k, v, table, layer_cache, rows=rows, positions=positions, value_scale=value_scale
        )
    layer_cache.require_ahead()
    stored = layer_cache.keys, layer_cache.values
    return native(backend).rope_cached(q, k, v, table, value_scale, *stored, rows, positions)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return rms_norm(x, weight, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        return *_rms_norm_backward(dy, *ctx.saved_tensors, ctx.eps), None


def _rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if choose("rms_norm", x, weight, needs_grad=True) == "reference":
        return tuple(autograd_of(partial(reference.rms_norm, eps=eps), (x, weight), (dy,)))
    return native("cpu").rms_norm_backward(dy.contiguous(), x, weight, eps)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, table: Tensor, value_scale: float):
        ctx.save_for_backward(table)
        ctx.value_scale = value_scale
        return rope(q, k, v, table, value_scale=value_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, dq: Tensor, dk: Tensor, dv: Tensor):
        return *_rope_backward(dq, dk, dv, *ctx.saved_tensors, ctx.value_scale), None, None


def _rope_backward(
    dq: Tensor, dk: Tensor, dv: Tensor, table: Tensor, value_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Turned by the opposite angles, which is the transposed rotation."""
    if choose("rope", dq, dk, dv, needs_grad=True) == "reference":
        # Linear in each, so that anything of the right shape will do as the point.
        turn = partial(reference.rope, table=table, value_scale=value_scale)
        return tuple(autograd_of(turn, (dq, dk, dv), (dq, dk, dv)))
    rows = (d if d.stride(-1) == 1 else d.contiguous() for d in (dq, dk, dv))
    return native("cpu").rope(*rows, table, value_scale, True)


def _dense_like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in tensors)


def _rms_norm_context(ctx, inputs, output) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _rope_context(ctx, inputs, output) -> None:
    *_, table, ctx.value_scale = inputs
    ctx.save_for_backward(table)


register_op(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    lambda x, weight, eps: rms_norm(x, weight, eps=eps),
    lambda x, weight, eps: x.new_empty(x.shape),
    setup_context=_rms_norm_context,
    backward=lambda ctx, dy: (
        *torch.ops.mimo_native.rms_norm_backward(dy, *ctx.saved_tensors, ctx.eps),
        None,
    ),
)
register_op(
    "rms_norm_backward(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    _rms_norm_backward,
    lambda dy, x, weight, eps: _dense_like(x, weight),
)
register_op(
    "rope(Tensor q, Tensor k, Tensor v, Tensor table, float value_scale)"
    " -> (Tensor, Tensor, Tensor)",
    lambda q, k, v, table, value_scale: rope(q, k, v, table, value_scale=value_scale),
    lambda q, k, v, table, value_scale: _dense_like(q, k, v),
    setup_context=_rope_context,
    backward=lambda ctx, dq, dk, dv: (
        *torch.ops.mimo_native.rope_backward(dq, dk, dv, *ctx.saved_tensors, ctx.value_scale),
        None,
        None,
    ),
)
register_op(
    "rope_backward(Tensor dq, Tensor dk, Tensor dv, Tensor table, float value_scale)"
    " -> (Tensor, Tensor, Tensor)",
    _rope_backward,
    lambda dq, dk, dv, table, value_scale: _dense_like(dq, dk, dv),
)
register_op(
    "rope_table(Tensor positions, float theta, int rotary_dim) -> Tensor",
    lambda positions, theta, rotary_dim: rope_table(positions, theta=theta, rotary_dim=rotary_dim),
    lambda positions, theta, rotary_dim: positions.new_empty(
        (positions.shape[0], rotary_dim), dtype=torch.float32
    ),
)
