"""SwiGLU feed-forward layers, dense and routed.

Suffixes: T tokens, D model width, F feed-forward width, E experts, K slots of a token, S = T * K.
"""

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ._common import accumulation_dtype, require, require_shape
from .gemm import grouped_gemm, linear

__all__ = ["expert_mlp", "swiglu", "swiglu_mlp"]


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, not clamped: a clamp changes this model's text.

    gate_up [.., 2F], gate first -> [.., F] in its dtype. Raises ShapeError for an odd width.
    """
    width = gate_up.shape[-1]
    require(width % 2 == 0, "swiglu", "gate_up", "an even last dimension", width)
    gate, up = gate_up.to(accumulation_dtype(gate_up)).chunk(2, dim=-1)
    return (nnf.silu(gate) * up).to(gate_up.dtype)


def swiglu_mlp(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """y = W_down (silu(W_gate x) * (W_up x)), nothing rounded on the way.

    x [.., D], w_gate_up [2F, D] gate rows first, w_down [D, F] -> [.., D] in x's dtype.
    Raises ShapeError when sizes differ.
    """
    wide = x.to(accumulation_dtype(x))
    return linear(swiglu(linear(wide, w_gate_up)), w_down, out_dtype=x.dtype)


def expert_mlp(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, ids: Tensor, weights: Tensor
) -> Tensor:
    """y_t = sum over slots k, in slot order, of weights_tk * SwiGLU-MLP of expert ids_tk at x_t.

    x [T, D], w_gate_up [E, 2F, D] gate rows first, w_down [E, D, F], ids [T, K] integers below E,
    weights [T, K] -> [T, D] in x's dtype. No token is dropped; an expert may receive no row.
    Raises ShapeError when sizes differ or an id is out of range.
    """
    op = "expert_mlp"
    experts, width = w_gate_up.shape[0], x.shape[-1]
    require_shape(op, "x", x, "T", "D")
    require_shape(op, "w_gate_up", w_gate_up, "E", "2F", width)
    require_shape(op, "w_down", w_down, experts, width, w_gate_up.shape[1] // 2)
    require_shape(op, "ids", ids, x.shape[0], "K")
    require_shape(op, "weights", weights, *ids.shape)
    known = bool(((ids >= 0) & (ids < experts)).all())
    require(known, op, "ids", f"expert ids in [0, {experts})", ids.flatten().tolist()[:16])

    expert_S = ids.flatten().long()
    order_S = expert_S.argsort(stable=True)
    sizes_E = expert_S.bincount(minlength=experts)
    wide = x.to(accumulation_dtype(x, w_gate_up))
    rows_SD = wide[order_S // max(ids.shape[1], 1)]
    rows_SD = grouped_gemm(swiglu(grouped_gemm(rows_SD, w_gate_up, sizes_E)), w_down, sizes_E)
    slots_TKD = rows_SD[order_S.argsort()].unflatten(0, ids.shape)

    y_TD = torch.zeros_like(wide)
    for k in range(ids.shape[1]):
        y_TD = y_TD + weights[:, k, None].to(wide.dtype) * slots_TKD[:, k]
    return y_TD.to(x.dtype)
