"""How a cache stores keys and values: as they are computed, or as 8-bit codes with a scale per row.

A row is one head's key, or value, of one token; m is its largest magnitude. In float32, rounded to
nearest even (csrc/attention/quantise.h is the same in C++):

    int8   code = round(x * (127 / m))    scale = m / 127    value = code * scale
    e4m3   code = e4m3(x * (448 / m))     scale = m / 448    value = code * scale

What is read back differs from x by at most m / 254 (int8), or by at most |x| / 16 or m / 458752,
whichever is larger (e4m3), apart from float32 rounding. A step's own tokens are coded before they
are attended to, so that a token's result does not depend on when it was committed.
"""

from typing import Literal

import torch
from torch import Tensor

from ..errors import UnsupportedError

__all__ = ["FORMATS", "SCALE_BYTES", "KvFormat", "as_stored", "storage_dtype"]

KvFormat = Literal["bf16", "int8", "e4m3"]
FORMATS = ("bf16", "int8", "e4m3")
SCALE_BYTES = 4  # of every key and every value in the 8-bit formats

_STORAGE = {
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "e4m3": torch.float8_e4m3fn,
}
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def storage_dtype(kv_format: KvFormat | None, dtype: torch.dtype) -> torch.dtype:
    """What a cache for activations of ``dtype`` stores; without a format, what is computed.

    Raises UnsupportedError for a format that there is not, or not for ``dtype``.
    """
    if dtype not in (torch.bfloat16, torch.float32):
        raise UnsupportedError("LayerCache", [f"no cache of {dtype}"])
    if kv_format is None:
        return dtype
    if kv_format not in FORMATS:
        raise UnsupportedError(
            "LayerCache", [f"no format {kv_format!r}"], remedy=f"There are {', '.join(FORMATS)}."
        )
    if dtype != torch.bfloat16:
        reasons = [f"format {kv_format!r} holds keys and values of bfloat16, not of {dtype}"]
        raise UnsupportedError("LayerCache", reasons, remedy="Use bfloat16, or leave it out.")
    return _STORAGE[kv_format]


def as_stored(x: Tensor, storage: torch.dtype) -> Tensor:
    """x [.., D] as a cache of this storage dtype returns it; float32 from the 8-bit formats."""
    if storage.itemsize > 1:
        return x
    x = x.float()
    m = x.abs().amax(-1, keepdim=True)
    # A tensor, because torch divides a number by a tensor as number * (1 / tensor).
    largest = torch.full_like(m, _LARGEST[storage])
    scaled = x * torch.where(m == 0, 0.0, largest / m)
    codes = scaled.round() if storage == torch.int8 else scaled.to(storage).float()
    return codes * torch.where(m == 0, 0.0, m / largest)
