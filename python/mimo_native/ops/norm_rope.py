"""RMSNorm and rotary position embedding with value scale."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register, wants_grad
from ._library import register_op

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
    if is_compiling() and not wants_grad(x, weight):
        return torch.ops.mimo_native.rms_norm(x, weight, eps)
    backend = choose("rms_norm", x, weight)
    if backend == "reference":
        return reference.rms_norm(x, weight, eps=eps)
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
    j + rotary_dim / 2. Returns new dense q, k, v. Section 2.1 of the report (partial RoPE).
    """
    if is_compiling() and not wants_grad(q, k, v):
        return torch.ops.mimo_native.rope(q, k, v, table, value_scale)
    backend = choose("rope", q, k, v)
    if backend == "reference":
        return reference.rope(q, k, v, table, value_scale=value_scale)
    return native(backend).rope(q, k, v, table, value_scale)


register_op(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    lambda x, weight, eps: rms_norm(x, weight, eps=eps),
    lambda x, weight, eps: x.new_empty(x.shape),
)
register_op(
    "rope_table(Tensor positions, float theta, int rotary_dim) -> Tensor",
    lambda positions, theta, rotary_dim: rope_table(positions, theta=theta, rotary_dim=rotary_dim),
    lambda positions, theta, rotary_dim: positions.new_empty(
        (positions.shape[0], rotary_dim), dtype=torch.float32
    ),
)
register_op(
    "rope(Tensor q, Tensor k, Tensor v, Tensor table, float value_scale)"
    " -> (Tensor, Tensor, Tensor)",
    lambda q, k, v, table, value_scale: rope(q, k, v, table, value_scale=value_scale),
    lambda q, k, v, table, value_scale: tuple(t.new_empty(t.shape) for t in (q, k, v)),
)
