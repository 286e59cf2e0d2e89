"""What every reference file shares: the accumulation dtype, dense weights, and refusals."""

from functools import reduce

import torch
from torch import Tensor

from ..errors import ShapeError

__all__ = ["accumulation_dtype", "dense", "require", "require_shape"]


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 when any of ``tensors`` is float64."""
    return reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


def dense(weight: object) -> Tensor:
    """The weight as a tensor; a packed weight is unpacked, which is exact."""
    return weight if isinstance(weight, Tensor) else weight.unpack()


def require(ok: bool, op: str, argument: str, expected: str, got: object, remedy: str = "") -> None:
    if not ok:
        raise ShapeError(op, argument, expected=expected, got=str(got), remedy=remedy)


def require_shape(op: str, argument: str, tensor: Tensor, *sizes: int | str) -> None:
    """Compare ``tensor`` with ``sizes``, where a name stands for any size."""
    fits = tensor.ndim == len(sizes) and all(
        isinstance(size, str) or size == actual
        for size, actual in zip(sizes, tensor.shape, strict=True)
    )
    expected = "[" + ", ".join(str(size) for size in sizes) + "]"
    require(fits, op, argument, f"shape {expected}", f"shape {list(tensor.shape)}")
