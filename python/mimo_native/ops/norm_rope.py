"""RMSNorm and rotary position embedding with value scale."""

import torch
from torch import Tensor

from .. import reference
from ..backends import choose, native, register

__all__ = ["rms_norm", "rope", "rope_table"]

_FLOATS = (torch.float32, torch.bfloat16)
register("rms_norm", "cpu", dtypes=_FLOATS, options=("eps",))
register("rms_norm", "cuda", dtypes=_FLOATS, options=("eps",))
register("rope_table", "cpu", dtypes=(torch.int64,), options=("theta", "rotary_dim"))
register("rope", "cpu", dtypes=_FLOATS, options=("value_scale",))


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dim.

    x [.., D] float32 or bfloat16, weight [D] of x's dtype or float32 -> y like x. Statistics and
    the product are float32, rounded once. Raises ShapeError naming the argument.
    """
    backend = choose("rms_norm", x, weight)
    if backend == "reference":
        return reference.rms_norm(x, weight, eps=eps)
    return native(backend).rms_norm(x, weight, eps)


def rope_table(positions: Tensor, *, theta: float, rotary_dim: int) -> Tensor:
    """Cosines and sines of the rotation angles, one row per token.

    positions [N] int64 -> float32 [N, rotary_dim]: cos in the first half, sin in the second, of
    angle = float32(position) * frequency_j, j < rotary_dim / 2; see the reference for the latter.
    """
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
    j + rotary_dim / 2. Returns new dense q, k, v. Section 2.1 of the report (partial RoPE).
    """
    backend = choose("rope", q, k, v)
    if backend == "reference":
        return reference.rope(q, k, v, table, value_scale=value_scale)
    return native(backend).rope(q, k, v, table, value_scale)
