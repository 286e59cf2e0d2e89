"""Weights as codes with scales: quantisation, stored forms, and their values.

Every function works on matrices [.., N, K]; S is the number of segments of K that share a scale.

    format        codes                scales [.., N, S]      value
    e4m3_128x128  e4m3 floats          float32, per 128       code * scale
    int8_row      [-128, 127]          float32, one per row   code * scale
    int8_32       [-128, 127]          float16, per 32        code * scale
    int4_32       [0, 15], with mins   float16, per 32        code * scale + min
    mxfp4         e2m1 floats          uint8 b, per 32        code * 2^(b - 127)

int8_row_a8 and int8_32_a8 hold the same codes as int8_row and int8_32; their products quantise the
activations too.

Sources: MiMo-V2-Flash's FP8 release (blocks of 128 x 128), the GGUF specification (Q8_0, Q4_0 and
Q4_1), the OCP microscaling formats specification 1.0 (mxfp4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError

__all__ = [
    "CODED",
    "Codes",
    "Format",
    "dequantize",
    "quantize",
    "quantizes_rows",
    "stored_codes",
    "stored_format",
]


@dataclass(frozen=True)
class Format:
    """Inputs per scale (None: all of a row), dtypes as stored, and whether there are mins."""

    segment: int | None
    code_dtype: torch.dtype
    scale_dtype: torch.dtype
    has_min: bool = False

    def segments(self, inputs: int) -> int:
        return int(inputs > 0) if self.segment is None else -(-inputs // self.segment)


CODED = {
    "e4m3_128x128": Format(128, torch.float8_e4m3fn, torch.float32),
    "int8_row": Format(None, torch.int8, torch.float32),
    "int8_32": Format(32, torch.int8, torch.float16),
    "int4_32": Format(32, torch.uint8, torch.float16, has_min=True),
    "mxfp4": Format(32, torch.uint8, torch.uint8),
}
_EIGHT_BIT_ROWS = "_a8"
CODED |= {name + _EIGHT_BIT_ROWS: CODED[name] for name in ("int8_row", "int8_32")}

_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
_E4M3_MAX, _E4M3_NAN = 448.0, 0x7F


def quantizes_rows(format: str) -> bool:
    """Whether products with a weight of this format quantise the other side too."""
    return format.endswith(_EIGHT_BIT_ROWS)


def stored_format(format: str) -> str:
    """The format of the codes that a weight of ``format`` holds."""
    return format.removesuffix(_EIGHT_BIT_ROWS)


@dataclass(frozen=True)
class Codes:
    """codes uint8 [.., N, K], one per byte; scales and, with int4_32, mins [.., N, S]."""

    format: str
    codes: Tensor
    scales: Tensor
    mins: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    def map(self, change: Callable[[Tensor], Tensor]) -> "Codes":
        """``change``, which moves or copies rows, applied to codes, scales and mins."""
        mins = None if self.mins is None else change(self.mins)
        return Codes(self.format, change(self.codes), change(self.scales), mins)

    @staticmethod
    def cat(parts: Sequence["Codes"]) -> "Codes":
        """Rows below rows; all of one format."""
        columns = zip(*((p.codes, p.scales, p.mins) for p in parts), strict=True)
        joined = (None if c[0] is None else torch.cat(c) for c in columns)
        return Codes(parts[0].format, *joined)


def dequantize(c: Codes) -> Tensor:
    """The values, float32 [.., N, K]."""
    if c.format == "e4m3_128x128":
        values = c.codes.view(torch.float8_e4m3fn).float()
    elif c.format == "mxfp4":
        values = _E2M1[c.codes.int()]
    elif c.format == "int4_32":
        values = c.codes.float()
    else:
        values = c.codes.view(torch.int8).float()
    values *= _spread(_powers(c.scales) if c.format == "mxfp4" else c.scales.float(), c)
    return values if c.mins is None else values.add_(_spread(c.mins.float(), c))


def quantize(weight: Tensor, format: str) -> Codes:
    """The nearest codes under scales that let the largest value of a segment be reached.

    weight float [.., N, K]. Raises ShapeError for values that are not finite, or too large for the
    scales.
    """
    format = stored_format(format)
    kind, (*_, inputs) = CODED[format], weight.shape
    weight = weight.float()
    if not bool(weight.isfinite().all()):
        raise ShapeError("pack", "weight", expected="finite values", got="infinities or NaN")
    if format == "e4m3_128x128":
        largest = _grid(_segments(weight, kind).abs().amax(-1))
        scales = torch.where(largest > 0, largest / _E4M3_MAX, 1.0)
        ratio = weight / _spread(scales, Codes(format, weight, scales))
        codes = ratio.clamp_(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
        return Codes(format, codes, scales)
    parts = _segments(weight, kind)
    if format == "mxfp4":
        # The power of two below the largest value becomes that of the largest code, 4.
        _, exponent = torch.frexp(parts.abs().amax(-1))
        scales = (exponent - 3 + 127).clamp_(0, 254)
        scales = torch.where(parts.abs().amax(-1) > 0, scales, 127).to(torch.uint8)
        ratio = parts / _powers(scales)[..., None]
        # The midpoints between neighbours; one that is met goes to the even code.
        lower = torch.tensor([0.25, 1.25, 2.5, 5.0])
        upper = torch.tensor([0.75, 1.75, 3.5])
        size = ratio.abs()
        codes = torch.bucketize(size, lower, right=False) + torch.bucketize(size, upper, right=True)
        codes = codes + 8 * ratio.signbit()
        return Codes(format, _whole(codes, inputs), scales)
    if format == "int4_32":
        low, high = parts.amin(-1), parts.amax(-1)
        scales = _half((high - low) / 15, "scale")
        mins = _half(low, "min")
        ratio = (parts - mins.float()[..., None]) / _divisor(scales)[..., None]
        return Codes(format, _whole(ratio.round_().clamp_(0, 15), inputs), scales, mins)
    scales = parts.abs().amax(-1) / 127
    scales = scales if format == "int8_row" else _half(scales, "scale")
    codes = (parts / _divisor(scales)[..., None]).round_().clamp_(-127, 127).to(torch.int8)
    return Codes(format, _whole(codes.view(torch.uint8), inputs), scales)


def stored_codes(weight: Tensor, format: str, scale: Tensor) -> Codes:
    """A weight that is stored as codes, unchanged.

    weight, scale  e4m3_128x128  float8_e4m3fn [.., N, K], float32 [.., ceil(N / 128), S] or
                                 [.., N, S]
                   int8_row      int8 [.., N, K], float32 [.., N] or [.., N, 1]
                   int8_32       int8 [.., N, K], float16 [.., N, S]
                   int4_32       uint8 [.., N, K], float16 [.., N, S, 2]: scale and min
                   mxfp4         uint8 [.., N, K / 2], the lower half first, uint8 [.., N, S]

    Raises ShapeError for another dtype or shape, for a scale that is not finite, and for a NaN
    among the codes.
    """
    format = stored_format(format)
    kind = CODED[format]
    code_dtype = {
        "e4m3_128x128": torch.float8_e4m3fn,
        "int8_row": torch.int8,
        "int8_32": torch.int8,
    }
    _require_dtype("weight", weight, code_dtype.get(format, torch.uint8), format)
    _require_dtype("scale", scale, kind.scale_dtype, format)
    codes = weight.view(torch.uint8)
    if format == "mxfp4":
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    elif format == "int4_32" and bool((codes > 15).any()):
        raise ShapeError("pack", "weight", expected="codes in [0, 15]", got=str(int(codes.max())))
    elif format == "e4m3_128x128" and bool(((codes & _E4M3_NAN) == _E4M3_NAN).any()):
        raise ShapeError("pack", "weight", expected="e4m3 numbers", got="a NaN among them")
    *lead, outputs, inputs = codes.shape
    rows = (*lead, outputs, kind.segments(inputs))
    finite = scale != 255 if format == "mxfp4" else scale.isfinite()
    if not bool(finite.all()):
        raise ShapeError("pack", "scale", expected="finite scales", got="infinities or NaN")
    if format == "int4_32":
        _require_shape(scale, (*rows, 2))
        return Codes(format, codes, scale[..., 0].contiguous(), scale[..., 1].contiguous())
    if format == "int8_row" and scale.shape == rows[:-1]:
        scale = scale[..., None]
    grid = (*lead, -(-outputs // 128), rows[-1])
    if format == "e4m3_128x128" and scale.shape == grid:
        scale = scale.repeat_interleave(128, dim=-2)[..., :outputs, :]
        return Codes(format, codes, scale.contiguous())
    _require_shape(scale, rows, grid if format == "e4m3_128x128" else None)
    return Codes(format, codes, scale.contiguous())


def _segments(weight: Tensor, kind: Format) -> Tensor:
    """[.., K] -> [.., S, inputs of a segment], zeros at the end of the last one."""
    inputs = weight.shape[-1]
    length = inputs if kind.segment is None else kind.segment
    missing = kind.segments(inputs) * length - inputs
    padded = torch.nn.functional.pad(weight, (0, missing)) if missing else weight
    return (
        padded.unflatten(-1, (kind.segments(inputs), length)) if inputs else weight[..., None, :0]
    )


def _whole(parts: Tensor, inputs: int) -> Tensor:
    """Segments back to rows, as codes."""
    return parts.to(torch.uint8).flatten(-2)[..., :inputs].contiguous()


def _spread(scales: Tensor, c: Codes) -> Tensor:
    """One value per segment -> one per input."""
    kind, inputs = CODED[c.format], c.codes.shape[-1]
    if kind.segment is None:
        return scales
    return scales.repeat_interleave(kind.segment, dim=-1)[..., :inputs]


def _grid(largest: Tensor) -> Tensor:
    """The largest of each 128 rows, for each of them."""
    rows = largest.shape[-2]
    blocks = [part.amax(-2, keepdim=True).expand_as(part) for part in largest.split(128, dim=-2)]
    return torch.cat(blocks, -2) if rows else largest


def _divisor(scales: Tensor) -> Tensor:
    """A segment of zeros has the scale 0 and the codes 0."""
    wide = scales.float()
    return torch.where(wide > 0, wide, 1.0)


def _half(values: Tensor, what: str) -> Tensor:
    half = values.to(torch.float16)
    if not bool(half.isfinite().all()):
        expected = f"values whose {what} fits into float16"
        raise ShapeError("pack", "weight", expected=expected, got=f"{values.abs().max():.3g}")
    return half


def _powers(bytes_: Tensor) -> Tensor:
    """2^(b - 127); the smallest is subnormal."""
    return (bytes_.int() << 23).clamp_(min=1 << 22).view(torch.float32)


def _require_dtype(argument: str, tensor: Tensor, dtype: torch.dtype, format: str) -> None:
    if tensor.dtype != dtype or not tensor.is_cpu or tensor.ndim < 1:
        expected = f"{dtype} on the CPU for {format}"
        got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise ShapeError("pack", argument, expected=expected, got=got)


def _require_shape(scale: Tensor, *shapes: tuple[int, ...] | None) -> None:
    if tuple(scale.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes if shape is not None)
        raise ShapeError("pack", "scale", expected=expected, got=str(list(scale.shape)))
