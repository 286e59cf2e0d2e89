"""SwiGLU feed-forward layers, dense and routed.

The order of every sum is fixed: a token's result has the same bits whatever other tokens the call
holds, and however many threads.
"""

import torch
from torch import Tensor

from .. import reference
from ..backends import choose, native, register
from .gemm import PackedWeight, evenly_spaced, native_weight, require_weight

__all__ = ["expert_mlp", "swiglu", "swiglu_mlp"]

_FLOATS = (torch.float32, torch.bfloat16)
register("swiglu", "cpu", dtypes=_FLOATS)
register("swiglu_mlp", "cpu", dtypes=_FLOATS)
register("expert_mlp", "cpu", dtypes=_FLOATS)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up in float32, not clamped, rounded once.

    gate_up [.., 2F] float32 or bfloat16, gate first -> [.., F]. Raises ShapeError.
    """
    backend = choose("swiglu", gate_up)
    if backend == "reference":
        return reference.swiglu(gate_up)
    shape = (*gate_up.shape[:-1], gate_up.shape[-1] // 2) if gate_up.ndim else ()
    y = torch.empty(shape, dtype=gate_up.dtype, device=gate_up.device)
    native(backend).swiglu(evenly_spaced(gate_up), y)
    return y


def swiglu_mlp(
    x: Tensor, w_gate_up: Tensor | PackedWeight, w_down: Tensor | PackedWeight
) -> Tensor:
    """y = W_down (silu(W_gate x) * (W_up x)); the activations are rounded to the weights' dtype.

    x [.., D] float32 or bfloat16, w_gate_up [2F, D] gate rows first, w_down [D, F], both plain or
    both packed -> [.., D] in x's dtype. Raises ShapeError naming the argument.
    """
    backend = choose("swiglu_mlp", x, w_gate_up, w_down)
    if backend == "reference":
        return reference.swiglu_mlp(x, w_gate_up, w_down)
    require_weight("swiglu_mlp", w_gate_up, 2, "[2F, D]", "w_gate_up")
    require_weight("swiglu_mlp", w_down, 2, "[D, F]", "w_down")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    native(backend).swiglu_mlp(
        evenly_spaced(x), *native_weight(w_gate_up), *native_weight(w_down), y
    )
    return y


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
    token is dropped; an expert may receive no row. Equation of the report's MoE layer, section 2.
    Raises ShapeError naming the argument, before any work.
    """
    backend = choose("expert_mlp", x, w_gate_up, w_down, ids, weights)
    if backend == "reference":
        return reference.expert_mlp(x, w_gate_up, w_down, ids, weights)
    require_weight("expert_mlp", w_gate_up, 3, "[E, 2F, D]", "w_gate_up")
    require_weight("expert_mlp", w_down, 3, "[E, D, F]", "w_down")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    native(backend).expert_mlp(
        x, *native_weight(w_gate_up), *native_weight(w_down), ids, weights, y
    )
    return y
