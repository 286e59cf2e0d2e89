"""Products with weights [outputs, inputs], plain or packed, and packing.

One accumulator per output, inputs in order: a row's result has the same bits whatever other rows
the call holds, and however many threads.
"""

import torch
from torch import Tensor

from .. import reference
from ..backends import choose, native, register
from ..errors import ShapeError
from ._packed import PackedWeight, pack

__all__ = ["PackedWeight", "grouped_gemm", "linear", "pack"]

_FLOATS = (torch.float32, torch.bfloat16)
register("linear", "cpu", dtypes=_FLOATS, options=("out_dtype",))
register("grouped_gemm", "cpu", dtypes=_FLOATS)


def linear(x: Tensor, w: Tensor | PackedWeight, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """y = x W^T, sums in float32, rounded once.

    x [.., K] float32 or bfloat16, w [N, K] of x's dtype, or float32 for bfloat16 rows
    -> [.., N] in ``out_dtype``, by default that of x. Raises ShapeError naming the argument.
    """
    backend = choose("linear", x, w, out_dtype=out_dtype)
    if backend == "reference":
        return reference.linear(x, w, out_dtype=out_dtype)
    _require_ndim("linear", w, 2, "[N, K]")
    y = torch.empty((*x.shape[:-1], w.shape[-2]), dtype=out_dtype or x.dtype, device=x.device)
    native(backend).linear(_evenly_spaced(x), *_weight(w), y)
    return y


def grouped_gemm(x: Tensor, w: Tensor | PackedWeight, group_sizes: Tensor) -> Tensor:
    """Row m of group g: y_m = W_g x_m.

    x [M, K] sorted by group, w [G, N, K] as in :func:`linear`, group_sizes [G] int32 or int64 that
    sum to M, zeros allowed -> [M, N] in x's dtype. Raises ShapeError naming the argument.
    """
    backend = choose("grouped_gemm", x, w, group_sizes)
    if backend == "reference":
        return reference.grouped_gemm(x, w, group_sizes)
    _require_ndim("grouped_gemm", w, 3, "[G, N, K]")
    y = torch.empty((*x.shape[:-1], w.shape[-2]), dtype=x.dtype, device=x.device)
    native(backend).grouped_gemm(x, *_weight(w), group_sizes, y)
    return y


def _weight(w: Tensor | PackedWeight) -> tuple[Tensor, object]:
    """The bytes and, where they are packed, their layout."""
    return (w.storage, w.layout) if isinstance(w, PackedWeight) else (w, None)


def _evenly_spaced(x: Tensor) -> Tensor:
    """Leading dims that one row stride cannot describe cost a copy."""
    return x if x.ndim <= 2 or x.is_contiguous() else x.reshape(-1, x.shape[-1])


def _require_ndim(
    op: str, w: Tensor | PackedWeight, ndim: int, symbols: str, argument: str = "w"
) -> None:
    if w.ndim != ndim:
        got = f"{w.dtype} {list(w.shape)}"
        raise ShapeError(op, argument, expected=f"a weight {symbols}", got=got)
