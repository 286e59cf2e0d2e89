"""Matrix products with weights stored [outputs, inputs].

Suffixes: M rows, N outputs, K inputs, G groups.
"""

import torch
from torch import Tensor

from ._common import accumulation_dtype, dense, require, require_shape
from .int8 import rows_seen_by

__all__ = ["grouped_gemm", "linear"]


def linear(x: Tensor, w: Tensor, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """y = x W^T.

    x [.., K], w [N, K] (tensor or packed) -> [.., N] in ``out_dtype``, by default that of x.
    Raises ShapeError when K differs.
    """
    w_NK = dense(w)
    require_shape("linear", "w", w_NK, "N", x.shape[-1])
    dtype = accumulation_dtype(x, w_NK)
    return (rows_seen_by(w, x, dtype) @ w_NK.to(dtype).T).to(out_dtype or x.dtype)


def grouped_gemm(x: Tensor, w: Tensor, group_sizes: Tensor) -> Tensor:
    """Row m of group g: y_m = W_g x_m.

    x [M, K] sorted by group, w [G, N, K] (tensor or packed), group_sizes [G] integers that sum to
    M, zeros allowed -> [M, N] in x's dtype. Raises ShapeError when sizes do not add up.
    """
    w_GNK = dense(w)
    require_shape("grouped_gemm", "x", x, "M", "K")
    require_shape("grouped_gemm", "w", w_GNK, "G", "N", x.shape[-1])
    require_shape("grouped_gemm", "group_sizes", group_sizes, w_GNK.shape[0])
    sizes = group_sizes.tolist()
    require(
        sum(sizes) == x.shape[0] and min(sizes, default=0) >= 0,
        "grouped_gemm",
        "group_sizes",
        f"non-negative sizes that sum to M = {x.shape[0]}",
        sizes,
    )
    dtype = accumulation_dtype(x, w_GNK)
    groups = zip(rows_seen_by(w, x, dtype).split(sizes), w_GNK, strict=True)
    return torch.cat([x_MK @ w_NK.to(dtype).T for x_MK, w_NK in groups]).to(x.dtype)
