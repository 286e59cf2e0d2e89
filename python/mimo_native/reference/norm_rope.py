"""RMSNorm, and rotary positions over the first dimensions of a head.

Suffixes: N tokens, H heads, D head dimension, R rotary dimension.
"""

from typing import Protocol

import torch
from torch import Tensor

from ._common import accumulation_dtype, require, require_shape

__all__ = ["rms_norm", "rope", "rope_cached", "rope_table"]


class _Places(Protocol):
    """What rope_cached needs of a layer's cache."""

    def write_ahead(self, k: Tensor, v: Tensor, rows: Tensor, positions: Tensor) -> None:
        """Store k [N, Hkv, Dqk] and v [N, Hkv, Dv] at these places, uncommitted."""


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    """y = w * x / sqrt(mean(x^2) + eps), rounded once at the end.

    x [.., D], weight [D] -> [.., D] in x's dtype. Raises ShapeError when D differs.
    """
    require_shape("rms_norm", "weight", weight, x.shape[-1])
    wide = x.to(accumulation_dtype(x, weight))
    return (weight * wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope_table(positions: Tensor, *, theta: float, rotary_dim: int) -> Tensor:
    """cos and sin of the angle p * theta^(-2j/R) for pair j of R/2.

    positions [N] int64 -> [N, R] float32, cos in the first half, sin in the second.

    The angle is a float32 by definition, whatever the dtype of the model: the float32 product of
    float32(p) and a float32 frequency, where each step towards the frequency is rounded to float32
    too: 2j/R, the power, its reciprocal. Models are trained with such angles; at position 262143
    a frequency one unit in the last place off turns a pair by up to 0.02 rad. cos and sin are
    evaluated in float64 and rounded once.
    """
    op = "rope_table"
    require_shape(op, "positions", positions, "N")
    even = rotary_dim > 0 and rotary_dim % 2 == 0
    require(even, op, "rotary_dim", "a positive even number", rotary_dim)
    require(theta > 0, op, "theta", "a positive number", theta)
    exponents = torch.arange(0, rotary_dim, 2, device=positions.device).float() / rotary_dim
    frequencies = 1 / (theta ** exponents.double()).float()
    angles = (positions.float()[:, None] * frequencies).double()
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def rope(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, *, value_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate dimensions (j, j + R/2) of every query and key head by the table; scale the values.

    q [N, Hq, Dqk], k [N, Hkv, Dqk], v [N, Hkv, Dv], table [N, R] of :func:`rope_table`, R <= Dqk
    -> new (q, k, v) in their dtypes. Dimensions R.. of a head pass unchanged. The value scale
    belongs here, before any cache. Raises ShapeError when sizes differ.
    """
    op, n, head_dim = "rope", q.shape[0], q.shape[-1]
    require_shape(op, "q", q, n, "Hq", head_dim)
    require_shape(op, "k", k, n, "Hkv", head_dim)
    require_shape(op, "v", v, n, k.shape[1], "Dv")
    require_shape(op, "table", table, n, "R")
    require(table.shape[1] <= head_dim, op, "table", f"R <= {head_dim}", f"R = {table.shape[1]}")
    scaled = (v.to(accumulation_dtype(v)) * value_scale).to(v.dtype)
    return _rotate(q, table), _rotate(k, table), scaled


def rope_cached(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    layer_cache: _Places,
    *,
    rows: Tensor,
    positions: Tensor,
    value_scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`rope`, whose k and v are also stored at (rows, positions) of a cache, uncommitted.

    rows, positions [N] int64; a token whose place the cache does not have is not stored.
    """
    q, k, v = rope(q, k, v, table, value_scale=value_scale)
    for name, places in (("rows", rows), ("positions", positions)):
        require_shape("rope_cached", name, places, q.shape[0])
    layer_cache.write_ahead(k, v, rows, positions)
    return q, k, v


def _rotate(x_NHD: Tensor, table_NR: Tensor) -> Tensor:
    half = table_NR.shape[-1] // 2
    cos, sin = table_NR[:, None].to(accumulation_dtype(x_NHD)).split(half, dim=-1)
    first, second, rest = x_NHD.split((half, half, x_NHD.shape[-1] - 2 * half), dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((*(part.to(x_NHD.dtype) for part in turned), rest), dim=-1)
