"""Values that stay float32 whatever the model is converted to: the router's and the sinks.

A bfloat16 selection bias has 8 distinct values where 238 were trained, and changes nearly every
token's experts.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["KeepFloat32", "keep_float32"]


def keep_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` as ``Module._apply`` gets it, without narrowing float32 tensors; float64 is let be."""

    def move_only(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        if tensor.dtype == torch.float32 and moved.dtype in (torch.bfloat16, torch.float16):
            return tensor.to(device=moved.device)
        return moved

    return move_only


class KeepFloat32(nn.Module):
    """A module that ``.to(torch.bfloat16)`` and the like move, but leave in float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KeepFloat32":
        return super()._apply(keep_float32(fn), recurse)
