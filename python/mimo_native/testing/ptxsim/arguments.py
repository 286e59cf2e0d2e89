"""Kernel arguments: tensors and scalars to the bytes of a parameter buffer."""

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

__all__ = ["Argument", "Output", "memory_span", "merged_spans", "pack"]


@dataclass(frozen=True)
class Output:
    """A tensor that the kernel writes: a read of an element that was not written is reported."""

    tensor: torch.Tensor


Argument: TypeAlias = torch.Tensor | Output | int | float | bytes | ctypes.Structure

_INTEGERS = {1: "b", 2: "h", 4: "i", 8: "q"}
_FLOATS = {2: "e", 4: "f", 8: "d"}


def memory_span(tensor: torch.Tensor) -> tuple[int, int]:
    """First address and number of bytes from the first to the last element of ``tensor``."""
    if tensor.device.type != "cpu":
        raise ValueError(f"expected a tensor on the CPU, got one on {tensor.device}")
    low = high = 0
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size == 0:
            return tensor.data_ptr(), 0
        low += min(0, (size - 1) * stride)
        high += max(0, (size - 1) * stride)
    item = tensor.element_size()
    return tensor.data_ptr() + low * item, (high - low + 1) * item


def merged_spans(tensors: Sequence[tuple[str, torch.Tensor]]) -> list[tuple[int, int, str]]:
    """(first address, bytes, name) of named tensors; those that overlap are joined."""
    spans = sorted((*memory_span(tensor), name) for name, tensor in tensors)
    merged: list[tuple[int, int, str]] = []
    for begin, size, name in spans:
        if size == 0:
            continue
        if merged and begin < merged[-1][0] + merged[-1][1]:
            first, length, names = merged[-1]
            joined = names if name in names.split(" and ") else f"{names} and {name}"
            merged[-1] = (first, max(length, begin + size - first), joined)
        else:
            merged.append((begin, size, name))
    return merged


def _pack_one(value: Argument, size: int, where: str) -> bytes:
    if isinstance(value, Output):
        value = value.tensor
    if isinstance(value, torch.Tensor):
        if size != 8:
            raise ValueError(f"{where}: expected a value of {size} bytes, got a tensor")
        return struct.pack("q", value.data_ptr())
    if isinstance(value, bytes | ctypes.Structure):
        data = bytes(value)
        if len(data) != size:
            raise ValueError(f"{where}: expected {size} bytes, got {len(data)}")
        return data
    kinds = _FLOATS if isinstance(value, float) else _INTEGERS
    if size not in kinds:
        raise ValueError(f"{where}: expected {size} bytes, got the number {value!r}")
    if isinstance(value, float):
        return struct.pack(kinds[size], value)
    return (int(value) % (1 << (8 * size))).to_bytes(size, "little")


def pack(args: Sequence[Argument], params: Sequence[tuple[int, int, int]], total: int) -> bytes:
    """The parameter buffer; ``params`` has (offset, bytes, bytes of an element) of each."""
    if len(args) != len(params):
        raise ValueError(f"expected {len(params)} arguments, got {len(args)}")
    buffer = bytearray(total)
    for i, (value, (offset, size, _)) in enumerate(zip(args, params, strict=True)):
        buffer[offset : offset + size] = _pack_one(value, size, f"argument {i}")
    return bytes(buffer)
