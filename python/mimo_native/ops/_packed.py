"""Weights in the order in which the kernels read them: lane = output, input after input."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _C
from ..errors import ShapeError, UnsupportedError

__all__ = ["FORMATS", "PackedWeight", "pack"]

FORMATS = {"bf16": torch.bfloat16, "f32": torch.float32}
_PANEL = 32  # outputs that a panel interleaves
_STEP_BYTES = 128  # of a panel: one input, or a pair of bfloat16 inputs, for all its outputs
_HUGE_PAGE = 2 << 20


class PackedWeight:
    """A weight [N, K] or [E, N, K] in packed order; made by :func:`pack`.

    It goes wherever a weight goes: linear, grouped_gemm, swiglu_mlp, expert_mlp. The packed bytes
    are the only copy, and :meth:`unpack` returns exactly the values that were packed.

    format   "bf16" or "f32"           dtype    of the values
    shape    of the unpacked weight    nbytes   of the packed one
    storage  the bytes, uint8; those of a :meth:`rows` view are shared with its origin
    """

    __slots__ = ("dtype", "format", "layout", "shape", "spec", "storage")

    def __init__(
        self, storage: Tensor, *, format: str, shape: torch.Size, expert_panels: int | None = None
    ) -> None:
        *experts, outputs, inputs = shape
        self.format, self.shape, self.dtype = format, torch.Size(shape), FORMATS[format]
        panels = -(-outputs // _PANEL) if expert_panels is None else expert_panels
        self.layout = _C.PackedLayout(format, math.prod(experts), outputs, inputs, panels)
        self.storage = storage
        # All but the bytes, as a compiled graph can carry it; see from_spec.
        self.spec = [[*FORMATS].index(format), panels, *shape]

    @staticmethod
    def from_spec(storage: Tensor, spec: Sequence[int]) -> "PackedWeight":
        """The weight whose ``spec`` this is."""
        format, panels, *shape = spec
        return PackedWeight(
            storage, format=[*FORMATS][format], shape=torch.Size(shape), expert_panels=panels
        )

    @classmethod
    def empty(cls, shape: Sequence[int], *, format: str = "bf16") -> "PackedWeight":
        """Room for a weight [E, N, K] of which every expert is yet to be written."""
        packed = cls(torch.empty(0), format=format, shape=torch.Size(shape))
        packed.storage = _storage(packed.nbytes)
        return packed

    def write(self, expert: int, weight: Tensor) -> None:
        """Pack ``weight`` [N, K] into the place of one expert of [E, N, K]. Raises ShapeError."""
        experts, outputs, inputs = self.shape
        if not 0 <= expert < experts or tuple(weight.shape) != (outputs, inputs):
            expected = f"an expert in [0, {experts}) and a weight {[outputs, inputs]}"
            got = f"{expert} and {list(weight.shape)}"
            raise ShapeError("PackedWeight.write", "expert, weight", expected=expected, got=got)
        one = _C.PackedLayout(self.format, 1, outputs, inputs, self.layout.expert_panels)
        begin = expert * self.layout.expert_panels * self.layout.panel_bytes
        source = weight.detach().to(self.dtype)[None]
        _C.pack(source, self.storage[begin : begin + one.bytes], one)

    def gather_rows(self, ids: Tensor) -> Tensor:
        """Rows ``ids`` [n] of a weight [N, K], unpacked: a tied embedding's look-up -> [n, K]."""
        inputs = self.shape[-1]
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
        """The weight as it was packed, a new tensor."""
        weight = torch.empty(self.shape, dtype=self.dtype)
        _C.unpack(self.storage, self.layout, weight if self.ndim == 3 else weight[None])
        return weight

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

    weight [N, K] or [E, N, K], any floating dtype, any strides but a contiguous last dim; rounded
    to the format where its dtype is wider. format: "bf16" or "f32", neither of which takes a
    ``scale``. Raises ShapeError for the weight, UnsupportedError for the format.
    """
    if format not in FORMATS:
        raise UnsupportedError("pack", [f"no format {format!r}"], remedy=f"There are {[*FORMATS]}.")
    if scale is not None:
        raise UnsupportedError("pack", [f"format {format!r} takes no scale"])
    if weight.ndim not in (2, 3) or not weight.is_floating_point() or not weight.is_cpu:
        got = f"{weight.dtype} {list(weight.shape)} on {weight.device}"
        expected = "a floating tensor [N, K] or [E, N, K] on the CPU"
        raise ShapeError("pack", "weight", expected=expected, got=got)
    packed = PackedWeight(torch.empty(0), format=format, shape=weight.shape)
    packed.storage = _storage(packed.nbytes)
    source = weight.detach().to(packed.dtype)
    _C.pack(source if source.ndim == 3 else source[None], packed.storage, packed.layout)
    return packed


def _storage(nbytes: int) -> Tensor:
    """Uninitialised bytes; large ones on 2 MiB pages, which one stream reads 1.6 times as fast."""
    if nbytes < _HUGE_PAGE:
        return torch.empty(nbytes, dtype=torch.uint8)
    whole = torch.empty(nbytes + _HUGE_PAGE, dtype=torch.uint8)
    storage = whole[-whole.data_ptr() % _HUGE_PAGE :][:nbytes]
    _C.advise_huge_pages(storage)
    return storage
