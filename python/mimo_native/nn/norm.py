"""RMSNorm as a module."""

import torch
from torch import Tensor, nn

from .. import ops

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """x [.., D] -> x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
