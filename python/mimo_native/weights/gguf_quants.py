"""The tensor encodings of GGUF files: sizes of all of them, dequantisation of six.

A quantised row is a run of blocks of 32 values. One block is, in bytes:

    Q8_0   d:f16  q:32 x i8                value = d * q
    Q4_0   d:f16  q:16 x u8                value = d * (nibble - 8)
    Q4_1   d:f16  m:f16  q:16 x u8         value = d * nibble + m

Byte j of the nibbles holds value j in its low half and value j + 16 in its high half.
d * q is exact in float32 (11-bit significand times 8 bits at most), so the only rounding is that of
adding m, and of the final conversion where a narrower dtype is asked for.

Source: the GGUF specification and ``ggml-common.h`` of the ggml project.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..ops._coded import Codes

__all__ = ["ENCODINGS", "Encoding", "codes_of_blocks", "dequantize"]


@dataclass(frozen=True)
class Encoding:
    """How ``block_values`` consecutive values of a row become ``block_bytes`` bytes."""

    name: str
    block_values: int
    block_bytes: int

    @property
    def readable(self) -> bool:
        """Whether ``dequantize`` knows this encoding; the others can only be listed."""
        return self.name in _DECODERS

    @property
    def coded(self) -> bool:
        """Whether ``codes_of_blocks`` knows it: the kernels take such codes as they are."""
        return self.name in ("Q8_0", "Q4_0", "Q4_1")

    def row_bytes(self, values: int) -> int:
        return values // self.block_values * self.block_bytes


ENCODINGS: dict[int, Encoding] = {
    code: Encoding(name, values, size)
    for code, name, values, size in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    )
}


def _plain(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda blocks: blocks.view(dtype).float()


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    # The slice is copied because a 2-byte view needs 2-byte alignment of every row.
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(blocks: torch.Tensor, at: int) -> torch.Tensor:
    packed = blocks[:, at:]
    return torch.cat([packed & 15, packed >> 4], dim=1).float()


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(_half(blocks, 0))


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks, 2).sub_(8).mul_(_half(blocks, 0))


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks, 4).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


_DECODERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "F32": _plain(torch.float32),
    "F16": _plain(torch.float16),
    "BF16": _plain(torch.bfloat16),
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
}


def dequantize(raw_RB: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Decode R rows of encoded bytes, uint8 [R, B], into float32 [R, values per row]."""
    blocks = raw_RB.reshape(-1, encoding.block_bytes)
    return _DECODERS[encoding.name](blocks).reshape(raw_RB.shape[0], -1)


def codes_of_blocks(raw_RB: torch.Tensor, encoding: Encoding) -> Codes | None:
    """R rows of encoded bytes as codes that stand for exactly the same values.

    Q8_0 becomes int8_32, Q4_1 int4_32, Q4_0 int4_32 with the min -8 d, a power of two times the
    scale. None where that, or another scale, is not finite in float16.
    """
    rows = raw_RB.shape[0]
    blocks = raw_RB.reshape(-1, encoding.block_bytes)

    def half(at: int) -> torch.Tensor:
        return blocks[:, at : at + 2].contiguous().view(torch.float16).reshape(rows, -1)

    scales = half(0)
    if encoding.name == "Q8_0":
        codes, mins, format = blocks[:, 2:].contiguous(), None, "int8_32"
    else:
        packed = blocks[:, 2 if encoding.name == "Q4_0" else 4 :]
        codes, format = torch.cat([packed & 15, packed >> 4], dim=1), "int4_32"
        mins = (scales.float() * -8).half() if encoding.name == "Q4_0" else half(2)
    for values in (scales, mins):
        if values is not None and not bool(values.isfinite().all()):
            return None
    return Codes(format, codes.view(rows, -1), scales, mins)
