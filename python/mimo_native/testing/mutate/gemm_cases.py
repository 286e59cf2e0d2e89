"""Cases of the product kernels: every tile, output and way of loading, with and without edges.

Inputs lie between NaNs, so that a value too many shows, and results between rows that are checked.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from ..gpu import SimulatedGpu
from .subjects import Case

__all__ = ["HOPPER", "PRODUCTS", "close", "numbers"]
_F32, _BF16 = torch.float32, torch.bfloat16
_TOLERANCE = {_BF16: 2.0**-7, _F32: 1e-5}
_MARGIN = 8  # NaNs before and behind a row, or one less than that: nothing is then aligned


def numbers(*shape: int, dtype: torch.dtype, aligned: bool = True) -> Tensor:
    """Normal numbers; the last dimension is cut out of longer rows of NaNs."""
    generator = torch.Generator().manual_seed(sum(shape))
    first = _MARGIN if aligned else _MARGIN - 1
    padded = -(-shape[-1] // _MARGIN) * _MARGIN + 2 * _MARGIN
    rows = torch.full((*shape[:-1], padded), torch.nan, dtype=dtype)
    view = rows[..., first : first + shape[-1]]
    return view.copy_(torch.randn(*shape, generator=generator))


def close(got: Tensor, want: Tensor) -> None:
    tolerance = _TOLERANCE[got.dtype]
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def _linear(
    m: int,
    n: int,
    k: int,
    dtype: torch.dtype,
    out: torch.dtype,
    weight: torch.dtype | None = None,
    aligned: bool = True,
) -> Case:
    def case(_: SimulatedGpu) -> None:
        x = numbers(m, k, dtype=dtype, aligned=aligned)
        w = numbers(n, k, dtype=weight or dtype, aligned=aligned)
        close(ops.linear(x, w, out_dtype=out), x.double() @ w.double().T)

    return case


def _grouped(
    sizes: Sequence[int],
    rows: int,
    n: int,
    k: int,
    dtype: torch.dtype,
    aligned: bool = True,
    weight: torch.dtype | None = None,
) -> Case:
    """Rows beyond the sizes are to be zero."""

    def case(_: SimulatedGpu) -> None:
        x = numbers(rows, k, dtype=dtype, aligned=aligned)
        w = numbers(len(sizes), n, k, dtype=weight or dtype, aligned=aligned)
        integer = torch.int32 if rows % 2 else torch.int64
        y = ops.grouped_gemm(x, w, torch.tensor(sizes, dtype=integer))
        want, row = torch.zeros(rows, n, dtype=torch.float64), 0
        for group, size in enumerate(sizes):
            end = min(row + max(size, 0), rows)
            want[row:end] = x[row:end].double() @ w[group].double().T
            row = end
        close(y, want)

    return case


# The simulated device has four processors: 385 rows fill it with large tiles. The last rows and
# columns of a tile end at each of the places where a thread may find them, and so do the inputs, in
# each of the stages.
_BF16_SHAPES = (
    *((1 + i % 2 * 8, 5 + i, 8) for i in range(4)),
    *((33 + i % 4 * 8, 9 + i, 8) for i in range(8)),
    *((385 + 8 * i, 9 + i, 8) for i in range(8)),
    (441, 9, 8),
    *((9, 5, 8), (9, 7, 8)),
    # The last row at each place of a thread, where the columns are whole.
    *((33 + 8 * i, 16, 8) for i in range(4)),
    *((385 + 8 * i, 16, 8) for i in range(8)),
    # The inputs end with the first value of a stage: of six, of four, of three.
    *((3, 40, 64 * stage + 1) for stage in range(5)),
    *((33, 40, 64 * stage + 1) for stage in range(3)),
    *((385, 136, 64 * stage + 1) for stage in range(2)),
    *((3, 70, 456), (16, 64, 192), (64, 128, 320), (385, 136, 200), (512, 128, 192)),
)
_BF16_ELEMENTS = (
    *((64, 64, 64 * stage + j) for stage in range(4) for j in range(1, 9)),
    *((33 + i % 4 * 8, 9 + i, 8) for i in range(8)),
    (33, 16, 8),
)
_F32_SHAPES = (
    *((8, 64, 256), (3, 37, 264), (1, 17, 8), (64, 64, 128), (70, 41, 40), (17, 30, 8)),
    *((33, 49, 8), (49, 1, 8)),
    *((3, 40, 64 * stage + 1) for stage in range(2)),
    *((33, 40, 32 * stage + 1) for stage in range(2)),
)
_F32_ELEMENTS = (
    *((64, 64, 32 * stage + j) for stage in range(3) for j in range(1, 9)),
    *((17, 5, 8), (33, 65, 8), (49, 17, 8), (5, 33, 9), (17, 49, 8)),
)
PRODUCTS: tuple[Case, ...] = (
    *(_linear(*shape, _BF16, out) for shape in _BF16_SHAPES for out in (_BF16, _F32)),
    *(_linear(*shape, _BF16, out, aligned=False) for shape in _BF16_ELEMENTS
      for out in (_BF16, _F32)),
    *(_linear(*shape, x, out, _F32) for x in (_BF16, _F32) for out in (_BF16, _F32)
      for shape in _F32_SHAPES),
    *(_linear(*shape, x, out, _F32, False) for x in (_BF16, _F32) for out in (_BF16, _F32)
      for shape in _F32_ELEMENTS),
    *(_grouped(sizes, 300, 40, 72, dtype, aligned) for dtype in (_BF16, _F32)
      for aligned in (True, False)
      for sizes in ((100, 0, 70, 129), (5, 0, 290), (200, 0, 100, 7), (100, 199))),
    _grouped((40, 0, 30), 80, 40, 72, _BF16),
    *(_grouped((100, 0, 70, 129), 310, 40, 72, _BF16, aligned, _F32) for aligned in (True, False)),
    _grouped((17, 0, 16, -3, 1, 4), 41, 24, 16, _BF16, True, _F32),
    *(_grouped((17, 0, 16, -3, 1, 4), 41, 24, 16, dtype) for dtype in (_BF16, _F32)),
    _grouped((2**31 - 1,) * 3, 11, 24, 16, _BF16),
    _grouped((1,) * 40 + (0,) * 983, 300, 8, 8, _BF16),
    _grouped((1,) * 1023, 1023, 8, 8, _BF16),
    _grouped((), 20, 8, 8, _BF16),
)  # fmt: skip
# Served by CUTLASS: 64 rows of a group and more, and everything is a multiple of eight.
HOPPER: tuple[Case, ...] = (
    _grouped((0, 230, 0, 1, 70, 200, 0), 540, 136, 200, _BF16),
    _grouped((300,), 301, 8, 8, _BF16),
    _grouped((100,), 110, 256, 8, _BF16),
    _grouped((65,) * 40, 2600, 8, 8, _BF16),
    _grouped((200, 200, -4), 300, 264, 72, _BF16),
    _grouped((130, 270), 400, 264, 968, _BF16),  # the ring of six stages several times over
)
