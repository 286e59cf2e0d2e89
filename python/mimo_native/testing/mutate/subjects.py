"""What is mutated: kernels and the cases that are to notice. A family adds its by register()."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ... import ops, reference
from ..gpu import SimulatedGpu

__all__ = ["SUBJECTS", "Case", "Subject", "label", "register"]

Case = Callable[[SimulatedGpu], None]


@dataclass(frozen=True)
class Subject:
    """``cases`` run inside ``simulated_gpu``; each raises AssertionError for a wrong result."""

    name: str
    only: tuple[str, ...]  # kernels whose names hold one of these; none: all that are launched
    cases: tuple[Case, ...]
    capability: tuple[int, int] = (8, 0)  # of the simulated device


SUBJECTS: dict[str, Subject] = {}


def label(case: Case) -> str:
    """A name that stays: the function that made a case, and what it was given."""
    code = getattr(case, "__code__", None)
    cells = getattr(case, "__closure__", None) or ()
    values = [cell.cell_contents for cell in cells]
    given = dict(zip(code.co_freevars if code else (), values, strict=True))
    texts = [f"{key}={value}" for key, value in given.items() if not callable(value)]
    return f"{case.__qualname__.partition('.')[0]}({', '.join(texts)})"


def register(
    name: str, *cases: Case, only: tuple[str, ...] = (), capability: tuple[int, int] = (8, 0)
) -> None:
    """Add a subject, whose kernels are those that its cases launch, or some of them."""
    SUBJECTS[name] = Subject(name, only, cases, capability)


def _norm(rows: int, dim: int, dtype: torch.dtype, weight_dtype: torch.dtype | None = None) -> Case:
    def case(_: SimulatedGpu) -> None:
        generator = torch.Generator().manual_seed(rows)
        x = torch.randn(rows, dim, generator=generator).to(dtype)
        weight = torch.randn(dim, generator=generator).to(weight_dtype or dtype)
        y = ops.rms_norm(x, weight, eps=1e-5)
        want = reference.rms_norm(x.double(), weight.double(), eps=1e-5)
        tolerance = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=1e-6)

    return case


_F32, _BF16 = torch.float32, torch.bfloat16
# Rows by one warp and by 2, 4 and 8, in wide loads and element by element; then enough loads per
# thread for the unrolled loops, exactly four and more.
_WIDTHS = (64, 7, 400, 101, 800, 201, 1600, 3208, 700)
_LONG = (1023, 1281, 4096, 8192, 20480)
register(
    "rms_norm",
    *(_norm(9 if dim < 100 else 2, dim, dtype) for dtype in (_F32, _BF16) for dim in _WIDTHS),
    *(_norm(9 if dim < 100 else 2, dim, _BF16, _F32) for dim in _WIDTHS),
    *(_norm(1, dim, dtype) for dtype in (_F32, _BF16) for dim in _LONG),
    *(_norm(1, dim, _BF16, _F32) for dim in _LONG),
)
