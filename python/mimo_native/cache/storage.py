"""Blocks of packed keys and values: making room for them, and reading them as plain tensors."""

import math

import torch
from torch import Tensor

from ..backends import native

__all__ = ["BLOCK", "empty_blocks", "unpack"]

BLOCK = 64  # positions per block

_HUGE_PAGE = 2 << 20
# Below this a head's part of a row is not worth pages of its own: short rows would hold memory
# that they never use.
_HUGE_FROM = 4 << 20


def empty_blocks(
    rows: int, heads: int, blocks: int, elements: int, *, dtype: torch.dtype
) -> Tensor:
    """[rows, heads, blocks, elements], uninitialised: a page is provided when it is first written.

    Long rows lie on 2 MiB pages, which a single stream reads faster.
    """
    shape = rows, heads, blocks, elements
    nbytes = math.prod(shape) * dtype.itemsize
    if blocks * elements * dtype.itemsize < _HUGE_FROM:
        return torch.empty(shape, dtype=dtype)
    whole = torch.empty(nbytes + _HUGE_PAGE, dtype=torch.uint8)
    storage = whole[-whole.data_ptr() % _HUGE_PAGE :][:nbytes]
    native("cpu").advise_huge_pages(storage)
    return storage.view(dtype).view(shape)


def unpack(keys: Tensor, values: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of one row, keys [Hkv, blocks, ..] and values [Hkv, blocks, ..], the blocks with these
    indices: [64 * blocks, Hkv, D] each; float32 from the 8-bit formats.
    """
    if keys.dtype == torch.float32:
        # [H, blocks, group, dim, key] and [H, blocks, key, dim]
        k = keys[:, blocks].unflatten(-1, (4, -1, 16)).permute(1, 2, 4, 0, 3)
        v = values[:, blocks].unflatten(-1, (BLOCK, -1)).permute(1, 2, 0, 3)
    elif keys.dtype == torch.bfloat16:
        # [H, blocks, group, pair of dims, key, 2] and [H, blocks, panel, pair of keys, dim, 2]
        k = keys[:, blocks].unflatten(-1, (4, -1, 16, 2)).permute(1, 2, 4, 0, 3, 5).flatten(-2)
        v = values[:, blocks].unflatten(-1, (-1, 32, 16, 2)).permute(1, 3, 5, 0, 2, 4).flatten(-2)
    else:
        (k, k_scale), (v, v_scale) = _codes(keys, blocks), _codes(values, blocks)
        # As in bf16, but [dim or key of the pair][16].
        k = k.unflatten(-1, (4, -1, 2, 16)).permute(1, 2, 5, 0, 3, 4).flatten(-2)
        v = v.unflatten(-1, (-1, 32, 2, 16)).permute(1, 3, 4, 0, 2, 5).flatten(-2)
        return (k.flatten(0, 2) * k_scale, v.flatten(0, 2) * v_scale)
    return k.flatten(0, 2), v.flatten(0, -3)


def _codes(stored: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Codes float32 [H, blocks, 64 * D], as numbers, and scales [64 * blocks, H, 1]."""
    taken = stored.view(torch.uint8)[:, blocks]
    end = taken.shape[-1] - BLOCK * 4
    scales = taken[..., end:].contiguous().view(torch.float32)
    codes = taken[..., :end].contiguous().view(stored.dtype).float()
    if stored.dtype != torch.int8:
        codes = codes / 256  # how e4m3 codes are stored: see csrc/attention/quantise.h
    return codes, scales.permute(1, 2, 0).flatten(0, 1)[..., None]
