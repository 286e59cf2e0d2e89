"""Weights in the order in which the kernels read them: lane = output, input after input."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _C
from ..errors import ShapeError, UnsupportedError
from ._coded import CODED, Codes, dequantize, quantize, stored_codes, stored_format

__all__ = ["FORMATS", "PackedWeight", "pack", "pack_any"]

_PLAIN = {"bf16": torch.bfloat16, "f32": torch.float32}
FORMATS = (*_PLAIN, *CODED)
_PANEL = 32  # outputs that a panel interleaves
_STEP_BYTES = 128  # of a plain panel: one input, or a pair of bfloat16 inputs, for all its outputs
_ROWS_AT_ONCE = 1 << 24  # values that are quantised at once: temporaries of some 200 MB
_HUGE_PAGE = 2 << 20


class PackedWeight:
    """A weight [N, K] or [E, N, K] in packed order; made by :func:`pack`.

    It goes wherever a weight goes: linear, grouped_gemm, swiglu_mlp, expert_mlp. The packed bytes
    are the only copy. "bf16" and "f32" hold values, the other formats codes with scales; in both
    :meth:`unpack` returns exactly what the weight stands for.

    format   see :func:`pack`          dtype    of the values that unpack returns
    shape    of the unpacked weight    nbytes   of the packed one
    storage  the bytes, uint8; those of a :meth:`rows` view are shared with its origin
    """

    __slots__ = ("dtype", "format", "layout", "shape", "spec", "storage")

    def __init__(
        self, storage: Tensor, *, format: str, shape: torch.Size, expert_panels: int | None = None
    ) -> None:
        *experts, outputs, inputs = shape
        self.format, self.shape = format, torch.Size(shape)
        self.dtype = _PLAIN.get(format, torch.float32)
        panels = -(-outputs // _PANEL) if expert_panels is None else expert_panels
        self.layout = _C.PackedLayout(format, math.prod(experts), outputs, inputs, panels)
        self.storage = storage
        # All but the bytes, as a compiled graph can carry it; see from_spec.
        self.spec = [FORMATS.index(format), panels, *shape]

    @staticmethod
    def from_spec(storage: Tensor, spec: Sequence[int]) -> "PackedWeight":
        """The weight whose ``spec`` this is."""
        format, panels, *shape = spec
        return PackedWeight(
            storage, format=FORMATS[format], shape=torch.Size(shape), expert_panels=panels
        )

    @classmethod
    def empty(cls, shape: Sequence[int], *, format: str = "bf16") -> "PackedWeight":
        """Room for a weight [N, K] or [E, N, K] that is yet to be written."""
        packed = cls(torch.empty(0), format=format, shape=torch.Size(shape))
        packed.storage = _storage(packed.nbytes)
        return packed

    @property
    def coded(self) -> bool:
        """Whether it holds codes with scales."""
        return self.format in CODED

    def write(self, expert: int, weight: Tensor | Codes, *, begin: int = 0) -> None:
        """Pack ``weight`` [n, K] into rows ``begin`` and up of one expert; 0 for a weight [N, K].

        Codes are of this format. ``begin`` and n are multiples of 32, and of 128 where e4m3 blocks
        are formed, unless n reaches the end. Raises ShapeError.
        """
        *experts, outputs, inputs = self.shape
        rows = weight.shape[0]
        coded = isinstance(weight, Codes)
        aligned = begin % _PANEL == 0 and (rows % _PANEL == 0 or begin + rows == outputs)
        inside = 0 <= expert < math.prod(experts) and 0 <= begin <= begin + rows <= outputs
        fits = len(weight.shape) == 2 and weight.shape[1] == inputs
        if not (
            inside
            and aligned
            and fits
            and (not coded or weight.format == stored_format(self.format))
        ):
            expected = f"an expert below {math.prod(experts)} and rows of {[outputs, inputs]}"
            got = f"{expert} and {list(weight.shape)} from row {begin} on"
            raise ShapeError("PackedWeight.write", "expert, weight", expected=expected, got=got)
        layout = _C.PackedLayout(self.format, 1, rows, inputs, self.layout.expert_panels)
        at = (expert * self.layout.expert_panels + begin // _PANEL) * self.layout.panel_bytes
        storage = self.storage[at : at + layout.bytes]
        if coded:
            parts = (weight.codes.contiguous(), weight.scales.contiguous(), weight.mins)
            _C.pack_codes(*parts, storage, layout)
            return
        weight = weight.detach()
        if not self.coded:
            _C.pack(weight.to(self.dtype)[None], storage, layout)
            return
        if weight.numel() == 0:
            storage.zero_()
            return
        most = max(_ROWS_AT_ONCE // max(inputs, 1) // 128, 1) * 128
        if rows > most:
            for first in range(0, rows, most):
                self.write(expert, weight[first : first + most], begin=begin + first)
            return
        self.write(expert, quantize(weight, self.format), begin=begin)

    def gather_rows(self, ids: Tensor) -> Tensor:
        """Rows ``ids`` [n] of a weight [N, K], unpacked: a tied embedding's look-up -> [n, K]."""
        inputs = self.shape[-1]
        if self.coded:
            return dequantize(self._codes((ids.numel(),), ids.long().contiguous()))
        values = self.storage.view(self.dtype)
        steps = self.layout.panel_bytes // _STEP_BYTES
        panels, lane = ids // _PANEL, ids % _PANEL
        if self.format == "f32":
            return values.view(-1, steps, _PANEL)[panels, :inputs, lane]
        pairs = values.view(-1, steps, 2, 16, 2)[panels, :, lane // 16, lane % 16]
        return pairs.flatten(1)[:, :inputs].contiguous()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        return self.storage.device

    @property
    def nbytes(self) -> int:
        return self.layout.bytes

    def unpack(self) -> Tensor:
        """The values, a new tensor: as they were packed, or codes times scales in float32."""
        if self.coded:
            return dequantize(self.codes())
        weight = torch.empty(self.shape, dtype=self.dtype)
        _C.unpack(self.storage, self.layout, weight if self.ndim == 3 else weight[None])
        return weight

    def codes(self) -> Codes:
        """Codes and scales as they were packed, row by row. Raises UnsupportedError for values."""
        if not self.coded:
            raise UnsupportedError("codes", [f"format {self.format!r} has no codes"])
        return self._codes(self.shape[:-1], None)

    def _codes(self, lead: Sequence[int], rows: Tensor | None) -> Codes:
        kind, inputs = CODED[self.format], self.shape[-1]
        codes = torch.empty(*lead, inputs, dtype=torch.uint8)
        scales = torch.empty(*lead, kind.segments(inputs), dtype=kind.scale_dtype)
        mins = torch.empty_like(scales) if kind.has_min else None
        flat = (None if t is None else t.view(-1, t.shape[-1]) for t in (codes, scales, mins))
        if codes.numel():
            _C.unpack_codes(self.storage, self.layout, rows, *flat)
        return Codes(stored_format(self.format), codes, scales, mins)

    def rows(self, begin: int, end: int) -> "PackedWeight":
        """Outputs [begin, end) as a view of the same bytes.

        ``begin`` is a multiple of 32, and ``end`` too unless it is N. Raises ShapeError.
        """
        outputs = self.shape[-2]
        aligned = begin % _PANEL == 0 and (end % _PANEL == 0 or end == outputs)
        if not (0 <= begin <= end <= outputs and aligned):
            expected = f"multiples of {_PANEL} within [0, {outputs}], or the end"
            raise ShapeError("rows", "begin, end", expected=expected, got=f"{begin}, {end}")
        shape = torch.Size((*self.shape[:-2], end - begin, self.shape[-1]))
        view = PackedWeight(
            self.storage[begin // _PANEL * self.layout.panel_bytes :],
            format=self.format,
            shape=shape,
            expert_panels=self.layout.expert_panels,
        )
        view.storage = view.storage[: view.nbytes]
        return view

    def __reduce__(self) -> tuple[object, ...]:
        return PackedWeight.from_spec, (self.storage, self.spec)

    def __repr__(self) -> str:
        return f"PackedWeight({self.format}, {list(self.shape)}, {self.nbytes} bytes)"


def pack(weight: Tensor, *, format: str = "bf16", scale: Tensor | None = None) -> PackedWeight:
    """Put a weight into the kernels' order, once, for every later call.

    weight [N, K] or [E, N, K], any floating dtype, any strides but a contiguous last dim. Formats:

        bf16, f32     the values, rounded where their dtype is wider
        e4m3_128x128  8-bit floats, a float32 scale per 128 x 128 block
        int8_row      8-bit integers, a float32 scale per row
        int8_32       8-bit integers, a float16 scale per 32 inputs
        int4_32       4-bit integers, a float16 scale and min per 32 inputs
        mxfp4         4-bit floats, a power of two per 32 inputs
        int8_row_a8   int8_row, and int8_32, whose products quantise the activations to 8 bits too,
        int8_32_a8    a scale per row and 32 inputs: faster, less exact, see docs/formats.md

    All but the first two are quantised here, or, with ``scale``, taken as they are stored: codes
    of the format's own dtype and

        e4m3_128x128  float8_e4m3fn, scale float32 [ceil(N / 128), ceil(K / 128)], or a row of it
                      for each output [N, ceil(K / 128)]
        int8_row      int8, float32 [N]              int8_32  int8, float16 [N, ceil(K / 32)]
        int4_32       uint8 one per byte, float16 [N, ceil(K / 32), 2], scale and min
        mxfp4         uint8 [N, K / 2], the lower half first, uint8 [N, K / 32] exponents
        .._a8         as without it

    with E before them for experts. Raises ShapeError for the weight or the scale, UnsupportedError
    for the format.
    """
    if format not in FORMATS:
        raise UnsupportedError("pack", [f"no format {format!r}"], remedy=f"There are {[*FORMATS]}.")
    if scale is not None and format in _PLAIN:
        raise UnsupportedError("pack", [f"format {format!r} takes no scale"])
    values = weight.is_floating_point() and weight.dtype.itemsize > 1
    if weight.ndim not in (2, 3) or not weight.is_cpu or not (values or scale is not None):
        got = f"{weight.dtype} {list(weight.shape)} on {weight.device}"
        expected = "a floating tensor [N, K] or [E, N, K] on the CPU"
        remedy = "" if values else "Codes need their scale beside them."
        raise ShapeError("pack", "weight", expected=expected, got=got, remedy=remedy)
    source = weight if scale is None else stored_codes(weight, format, scale)
    return pack_any(source, format=format)


def pack_any(weight: Tensor | Codes, *, format: str) -> PackedWeight:
    """:func:`pack` for a checked weight, or for codes of ``format``."""
    packed = PackedWeight.empty(weight.shape, format=format)
    if len(weight.shape) == 2:
        packed.write(0, weight)
        return packed
    for e in range(weight.shape[0]):
        one = weight.map(lambda t, e=e: t[e]) if isinstance(weight, Codes) else weight[e]
        packed.write(e, one)
    return packed


def _storage(nbytes: int) -> Tensor:
    """Uninitialised bytes; large ones on 2 MiB pages, which one stream reads 1.6 times as fast."""
    if nbytes < _HUGE_PAGE:
        return torch.empty(nbytes, dtype=torch.uint8)
    whole = torch.empty(nbytes + _HUGE_PAGE, dtype=torch.uint8)
    storage = whole[-whole.data_ptr() % _HUGE_PAGE :][:nbytes]
    _C.advise_huge_pages(storage)
    return storage


def empty_large(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """torch.empty for what a backward writes: the pages' first touch is a third of a large one."""
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.nbytes >= 2 * _HUGE_PAGE:
        _C.advise_huge_pages(tensor)
    return tensor
