"""A test case is data: sizes, inputs, tolerance and cost, shared by kernel tests and benchmarks.

@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case: Case) -> None:
    check_case(case, getattr(mimo_native.ops, case.op))
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from mimo_native import reference

from .tolerance import assert_close_bound

__all__ = ["FLOATS", "Case", "check_case", "expected", "in_float64", "normal"]

FLOATS = (torch.float32, torch.bfloat16)
_SHORT = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float64: "f64", torch.int64: "i64"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem of one op; subclasses add the sizes."""

    op: ClassVar[str]
    dtype: torch.dtype = torch.float32

    def make(self, seed: int = 0) -> dict[str, object]:
        """The arguments, to be called as op(**arguments)."""
        raise NotImplementedError

    def bounds(
        self, args: dict[str, object], want: tuple[Tensor, ...]
    ) -> tuple[Tensor | float, ...]:
        """Allowed error per output; ``args`` and ``want`` are in float64."""
        raise NotImplementedError

    @property
    def flops(self) -> int:
        """Multiplications and additions of the formula."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """Bytes of inputs and outputs, each counted once."""
        raise NotImplementedError

    def __str__(self) -> str:
        parts = [self.op, _SHORT[self.dtype]]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "dtype" and value != field.default:
                text = _SHORT.get(value) if isinstance(value, torch.dtype) else str(value)
                parts.append(f"{field.name}={text}".replace(" ", ""))
        return "-".join(parts)


def normal(*size: int, seed: int, dtype: torch.dtype, std: float = 1.0) -> Tensor:
    """Normal numbers, the same for every dtype up to rounding."""
    gen = torch.Generator().manual_seed(seed)
    return (torch.randn(*size, generator=gen) * std).to(dtype)


def in_float64(args: dict[str, object]) -> dict[str, object]:
    """The arguments with every floating tensor, and whatever offers double(), in float64."""

    def wide(value: object) -> object:
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        return value.double() if hasattr(value, "double") else value

    return {name: wide(value) for name, value in args.items()}


def as_tuple(outputs: object) -> tuple[Tensor, ...]:
    flat: list[Tensor] = []
    for item in outputs if isinstance(outputs, tuple) else (outputs,):
        flat.extend(as_tuple(item) if isinstance(item, tuple) else [item])
    return tuple(flat)


@lru_cache(maxsize=32)
def expected(case: Case, seed: int = 0) -> tuple[tuple[Tensor, ...], tuple[Tensor | float, ...]]:
    """Outputs of the reference in float64, and their bounds."""
    args = in_float64(case.make(seed))
    with torch.no_grad():
        want = as_tuple(getattr(reference, case.op)(**args))
        return want, case.bounds(args, want)


def check_case(case: Case, op: Callable[..., object], seed: int = 0) -> float:
    """Run ``op`` on the case and compare every output; returns the worst error / bound."""
    with torch.no_grad():
        got = as_tuple(op(**case.make(seed)))
    want, bounds = expected(case, seed)
    return max(
        assert_close_bound(g, w, b, f"{case} output {i}:")
        for i, (g, w, b) in enumerate(zip(got, want, bounds, strict=True))
    )
