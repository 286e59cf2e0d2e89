"""Products with weights [outputs, inputs], plain or packed, and packing.

One accumulator per output, inputs in order: a row's result has the same bits whatever other rows
the call holds, and however many threads. The gradients are products of the same kind.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register, wants_grad
from ..errors import ShapeError
from ._library import register_op
from ._packed import PackedWeight, empty_large, pack

__all__ = ["PackedWeight", "grouped_gemm", "linear", "pack"]

_FLOATS = (torch.float32, torch.bfloat16)
register("linear", "cpu", dtypes=_FLOATS, options=("out_dtype",), gradient=True)
register("grouped_gemm", "cpu", dtypes=_FLOATS, gradient=True)


def plain_weights(_: Tensor, *weights: object) -> str | None:
    """The CUDA kernels' limit: a packed weight is in the order of the CPU's kernels."""
    packed = any(isinstance(w, PackedWeight) for w in weights)
    return "takes no packed weight; .unpack() it" if packed else None


register("linear", "cuda", dtypes=_FLOATS, options=("out_dtype",), limit=plain_weights)
register("grouped_gemm", "cuda", dtypes=_FLOATS, limit=plain_weights)


def linear(x: Tensor, w: Tensor | PackedWeight, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """y = x W^T, sums in float32, rounded once. Differentiable in x and a plain w.

    x [.., K] float32 or bfloat16, w [N, K] of x's dtype, or float32 for bfloat16 rows
    -> [.., N] in ``out_dtype``, by default that of x. The incoming gradient is rounded to w's
    dtype. Raises ShapeError naming the argument.
    """
    if is_compiling():
        return torch.ops.mimo_native.linear(x, *flat_weight(w), out_dtype)
    backend = choose("linear", x, w, out_dtype=out_dtype)
    if backend == "reference":
        return reference.linear(x, w, out_dtype=out_dtype)
    if wants_grad(x, w):
        return _Product.apply(x, w, None, out_dtype)
    require_weight("linear", w, 2, "[N, K]")
    rows = evenly_spaced(x)
    y = native(backend).linear(rows, *native_weight(w), out_dtype and str(out_dtype))
    return y if rows is x else y.view(*x.shape[:-1], y.shape[-1])


def grouped_gemm(x: Tensor, w: Tensor | PackedWeight, group_sizes: Tensor) -> Tensor:
    """Row m of group g: y_m = W_g x_m. Differentiable in x and a plain w.

    x [M, K] sorted by group, w [G, N, K] as in :func:`linear`, group_sizes [G] int32 or int64 that
    sum to M, zeros allowed -> [M, N] in x's dtype. Raises ShapeError naming the argument; on a
    GPU, where no size is looked at, rows beyond their sum are zero.
    """
    if is_compiling():
        return torch.ops.mimo_native.grouped_gemm(x, *flat_weight(w), group_sizes)
    backend = choose("grouped_gemm", x, w, group_sizes)
    if backend == "reference":
        return reference.grouped_gemm(x, w, group_sizes)
    if wants_grad(x, w):
        return _Product.apply(x, w, group_sizes, None)
    require_weight("grouped_gemm", w, 3, "[G, N, K]")
    return native(backend).grouped_gemm(x, *native_weight(w), group_sizes)


class _Product(torch.autograd.Function):
    """linear, or grouped_gemm where sizes are given."""

    @staticmethod
    def forward(ctx, x: Tensor, w, sizes: Tensor | None, out_dtype: torch.dtype | None) -> Tensor:
        y = linear(x, w, out_dtype=out_dtype) if sizes is None else grouped_gemm(x, w, sizes)
        ctx.save_for_backward(x, *flat_weight(w)[:1], sizes)
        ctx.spec = flat_weight(w)[1]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, w, sizes = ctx.saved_tensors
        needs_x, needs_w = ctx.needs_input_grad[:2]
        dx, dw = product_backward(dy, x, any_weight(w, ctx.spec), sizes, needs_x, needs_w)
        return dx, dw, None, None


def product_backward(
    dy: Tensor,
    x: Tensor,
    w: Tensor | PackedWeight,
    sizes: Tensor | None,
    needs_x: bool,
    needs_w: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """dx = dy W and dW = dy^T x, per group; sums in float32, rows in order."""
    _C = native("cpu")
    dtype, dx, dw = w.dtype, None, None
    dy_MN = dy.to(dtype).reshape(-1, dy.shape[-1]).contiguous()
    if needs_x:
        plain = w.unpack() if isinstance(w, PackedWeight) else w
        dx = empty_large(x.shape, x.dtype)
        _C.input_grad(dy_MN, plain, sizes, dx)
    if needs_w:
        dw = empty_large(w.shape, dtype)
        x_MK = x.to(dtype).reshape(-1, x.shape[-1])
        _C.weight_grad(dy_MN, x_MK, sizes, dw if dw.ndim == 3 else dw[None])
    return dx, dw


def native_weight(w: Tensor | PackedWeight) -> tuple[Tensor, object]:
    """The bytes and, where they are packed, their layout."""
    return (w.storage, w.layout) if isinstance(w, PackedWeight) else (w, None)


def flat_weight(w: Tensor | PackedWeight) -> tuple[Tensor, list[int] | None]:
    """A weight as a registered op takes it; :func:`any_weight` is the inverse."""
    return (w.storage, w.spec) if isinstance(w, PackedWeight) else (w, None)


def any_weight(w: Tensor, spec: Sequence[int] | None) -> Tensor | PackedWeight:
    return w if spec is None else PackedWeight.from_spec(w, spec)


def weight_shape(w: Tensor, spec: Sequence[int] | None) -> Sequence[int]:
    return w.shape if spec is None else spec[2:]


def evenly_spaced(x: Tensor) -> Tensor:
    """Leading dims that one row stride cannot describe cost a copy."""
    return x if x.ndim <= 2 or x.is_contiguous() else x.reshape(-1, x.shape[-1])


def require_weight(
    op: str, w: Tensor | PackedWeight, ndim: int, symbols: str, argument: str = "w"
) -> None:
    if w.ndim != ndim:
        got = f"{w.dtype} {list(w.shape)}"
        raise ShapeError(op, argument, expected=f"a weight {symbols}", got=got)


def _linear_fake(x, w, spec, out_dtype):
    return x.new_empty((*x.shape[:-1], weight_shape(w, spec)[-2]), dtype=out_dtype or x.dtype)


def _grouped_gemm_fake(x, w, spec, group_sizes):
    return x.new_empty((x.shape[0], weight_shape(w, spec)[-2]))


def _setup_context(ctx, inputs, output) -> None:
    x, w, ctx.spec, last = inputs
    ctx.save_for_backward(x, w, last if isinstance(last, Tensor) else None)


def _backward(ctx, dy):
    x, w, sizes = ctx.saved_tensors
    needs_x, needs_w = ctx.needs_input_grad[:2]
    needs = (needs_x, needs_w and ctx.spec is None)
    dx, dw = torch.ops.mimo_native.product_backward(dy, x, w, ctx.spec, sizes, *needs)
    return (dx if needs[0] else None), (dw if needs[1] else None), None, None


def _product_backward(dy, x, w, spec, sizes, needs_x, needs_w):
    grads = product_backward(dy, x, any_weight(w, spec), sizes, needs_x, needs_w)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


def _product_backward_fake(dy, x, w, spec, sizes, needs_x, needs_w):
    dx = x.new_empty(x.shape if needs_x else 0)
    dw = w.new_empty(w.shape) if needs_w else x.new_empty(0)
    return dx, dw


register_op(
    "linear(Tensor x, Tensor w, int[]? spec, ScalarType? out_dtype) -> Tensor",
    lambda x, w, spec, out_dtype: linear(x, any_weight(w, spec), out_dtype=out_dtype),
    _linear_fake,
    setup_context=_setup_context,
    backward=_backward,
)
register_op(
    "grouped_gemm(Tensor x, Tensor w, int[]? spec, Tensor group_sizes) -> Tensor",
    lambda x, w, spec, group_sizes: grouped_gemm(x, any_weight(w, spec), group_sizes),
    _grouped_gemm_fake,
    setup_context=_setup_context,
    backward=_backward,
)
register_op(
    "product_backward(Tensor dy, Tensor x, Tensor w, int[]? spec, Tensor? sizes, bool needs_x,"
    " bool needs_w) -> (Tensor, Tensor)",
    _product_backward,
    _product_backward_fake,
)
