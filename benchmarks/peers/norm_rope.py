"""Peers of RMSNorm and RoPE: vLLM's CPU kernels."""

from collections.abc import Callable

import torch
from torch import Tensor

from .vllm import vllm_kernels

__all__ = ["vllm_rms_norm"]


def vllm_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Callable[[], object] | None:
    kernels = vllm_kernels()
    if kernels is None or weight.dtype is not x.dtype:
        return None

    def call() -> Tensor:
        y = torch.empty_like(x)
        kernels.rms_norm(y, x, weight, eps)
        return y

    return call
