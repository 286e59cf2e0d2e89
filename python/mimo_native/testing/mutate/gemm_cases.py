"""Cases of the product kernels: every tile, output and way of loading, with and without edges."""

import torch
from torch import Tensor

from ... import ops
from ..gpu import SimulatedGpu
from .subjects import Case, register

__all__: list[str] = []
_F32, _BF16 = torch.float32, torch.bfloat16
_TOLERANCE = {_BF16: 2.0**-7, _F32: 1e-5}


def _numbers(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def _linear(
    m: int,
    n: int,
    k: int,
    dtype: torch.dtype,
    out: torch.dtype,
    weight: torch.dtype | None = None,
    first: int = 0,
) -> Case:
    """``first`` values of each row are left out: nothing lies at a multiple of 16 bytes."""

    def case(_: SimulatedGpu) -> None:
        x = _numbers(m, k + first, dtype=dtype)[:, first:]
        w = _numbers(n, k + first, dtype=weight or dtype)[:, first:]
        y = ops.linear(x, w, out_dtype=out)
        tolerance = _TOLERANCE[out]
        want = x.double() @ w.double().T
        torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)

    return case


def _grouped(sizes: tuple[int, ...], rows: int, n: int, k: int, dtype: torch.dtype) -> Case:
    """Rows beyond the sizes are to be zero."""

    def case(_: SimulatedGpu) -> None:
        x, w = _numbers(rows, k, dtype=dtype), _numbers(len(sizes), n, k, dtype=dtype)
        integer = torch.int32 if rows % 2 else torch.int64
        y = ops.grouped_gemm(x, w, torch.tensor(sizes, dtype=integer))
        want, row = torch.zeros(rows, n, dtype=torch.float64), 0
        for group, size in enumerate(sizes):
            end = min(row + max(size, 0), rows)
            want[row:end] = x[row:end].double() @ w[group].double().T
            row = end
        tolerance = _TOLERANCE[dtype]
        torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)

    return case


# The simulated device has four processors: the last of each list fills it with large tiles.
_SHAPES = ((1, 5, 8), (16, 64, 192), (3, 70, 456), (64, 128, 320), (33, 41, 72), (385, 136, 200))
register(
    "gemm",
    *(_linear(*shape, _BF16, out) for shape in _SHAPES for out in (_BF16, _F32)),
    *(_linear(*shape, _BF16, out, first=1) for out in (_BF16, _F32)
      for shape in ((20, 65, 195), (64, 64, 64))),
    *(_linear(*shape, x, out, _F32, first) for x in (_BF16, _F32) for out in (_BF16, _F32)
      for shape, first in (((8, 64, 256), 0), ((3, 37, 264), 0), ((64, 64, 128), 0),
                           ((70, 41, 40), 0), ((64, 64, 64), 1), ((5, 65, 99), 1))),
    *(_grouped(sizes, 300, 40, 72, dtype) for dtype in (_BF16, _F32)
      for sizes in ((100, 0, 70, 130), (5, 0, 295), (200, 0, 100, 7))),
    *(_grouped((17, 0, 16, -3, 1, 4), 41, 24, 16, dtype) for dtype in (_BF16, _F32)),
    _grouped((2**31 - 1,) * 3, 11, 24, 16, _BF16),
    _grouped((1,) * 40 + (0,) * 983, 300, 8, 8, _BF16),
)  # fmt: skip
