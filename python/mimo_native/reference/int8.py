"""Rows of eight bits, as the formats int8_row_a8 and int8_32_a8 multiply them."""

import torch
from torch import Tensor

__all__ = ["dequantised_rows", "quantise_rows", "rows_seen_by"]

_FORMATS = ("int8_row_a8", "int8_32_a8")
_GROUP, _LARGEST, _ZERO = 32, 127.0, 2.0**-100


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [.., K] -> codes [.., K] int8 and scales [.., ceil(K / 32)] float32.

    scale = largest / 127 and code = x * (127 / largest) rounded, ties to even, both in float32,
    with the largest magnitude of 32 inputs. Below 2^-100 it counts as zero; where an input is not
    finite the scale is NaN and the codes are 0.
    """
    missing = -x.shape[-1] % _GROUP
    groups = torch.nn.functional.pad(x.float(), (0, missing)).unflatten(-1, (-1, _GROUP))
    finite = groups.isfinite().all(-1)
    groups = groups.where(finite[..., None], 0.0)
    largest = groups.abs().amax(-1)
    largest = largest.where(largest >= _ZERO, 0.0)
    # A number over a tensor would be its reciprocal, rounded, times the number.
    factor = torch.where(largest > 0, torch.full_like(largest, _LARGEST) / largest, 0.0)
    codes = (groups * factor[..., None]).round().to(torch.int8).flatten(-2)[..., : x.shape[-1]]
    return codes, torch.where(finite, largest / _LARGEST, torch.nan)


def dequantised_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that stand for x [.., K]."""
    codes, scales = quantise_rows(x)
    spread = scales.repeat_interleave(_GROUP, -1)[..., : x.shape[-1]]
    return codes.to(dtype) * spread.to(dtype)


def rows_seen_by(weight: object, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in ``dtype``, quantised first where the weight's format does so."""
    if getattr(weight, "format", None) in _FORMATS:
        return dequantised_rows(x, dtype)
    return x.to(dtype)
