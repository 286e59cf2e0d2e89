"""The tables that kernels are tested with: the reference in the case's own dtype stays inside every
bound, and a result that is slightly wrong does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mimo_native import reference

from ..attention import cases as attention
from ..case import Case, as_tuple, check_case, expected
from ..experts import cases as experts
from ..gemm import cases as gemm
from ..loss import cases as loss
from ..norm_rope import cases as norm_rope
from ..routing import cases as routing
from ..sampling import cases as sampling
from ..tolerance import assert_close_bound

FAMILIES = (attention, experts, gemm, loss, norm_rope, routing, sampling)
CASES = [case for family in FAMILIES for case in family.CASES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_stays_inside_the_bound(case: Case) -> None:
    check_case(case, getattr(reference, case.op))


def spoiled(op: Callable[..., object], error: float) -> Callable[..., object]:
    """The op with every output of floating type off by a relative error."""

    def call(**args: object) -> tuple[Tensor, ...]:
        return tuple(t * (1 + error) if t.is_floating_point() else t for t in as_tuple(op(**args)))

    return call


# Among denormals such an error is below a unit in the last place; "scales" hides small sums.
SENSITIVE = [
    case
    for case in CASES
    if getattr(case, "data", None) not in ("scales", "denormal")
    and any(t.is_floating_point() and t.isfinite().any() and t.nan_to_num(0, 0, 0).any()
            for t in expected(case)[0])
]  # fmt: skip


@pytest.mark.parametrize("case", SENSITIVE, ids=str)
def test_a_small_relative_error_is_caught(case: Case) -> None:
    error = 0.02 if case.dtype == torch.bfloat16 else 2e-4
    with pytest.raises(AssertionError, match="outside the bound"):
        check_case(case, spoiled(getattr(reference, case.op), error))


def test_names_are_unique_and_costs_positive() -> None:
    everything = [*CASES, *(case for family in FAMILIES for case in family.BENCHMARKS)]
    assert len({str(case) for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.flops >= 0
        assert case.bytes >= 0
    assert all(str(case).startswith(case.op) for case in everything)


def test_the_message_names_count_place_values_and_ratio() -> None:
    want, bound = torch.zeros(2, 3), torch.full((2, 3), 0.5)
    got = want.clone()
    got[0, 2], got[1, 1] = 1.0, -2.0
    with pytest.raises(AssertionError) as caught:
        assert_close_bound(got, want, bound, "y:")
    text = str(caught.value)
    for part in ("y: 2 of 6", "first at [0, 2]", "got 1,", "want 0,", "4 bounds, at [1, 1]"):
        assert part in text
    assert assert_close_bound(want + 0.25, want, bound) == 0.5


@pytest.mark.parametrize(
    ("got", "want", "good"),
    [
        ([-torch.inf], [-torch.inf], True),
        ([torch.nan], [0.0], False),
        ([0.0], [-torch.inf], False),
        ([torch.inf], [-torch.inf], False),
        ([], [], True),
    ],
)
def test_infinities_must_match_and_nan_never_passes(got: list, want: list, good: bool) -> None:
    if good:
        assert assert_close_bound(torch.tensor(got), torch.tensor(want), 1.0) == 0.0
    else:
        with pytest.raises(AssertionError, match="outside the bound"):
            assert_close_bound(torch.tensor(got), torch.tensor(want), 1.0)
    with pytest.raises(AssertionError, match="shape"):
        assert_close_bound(torch.zeros(2), torch.zeros(3), 1.0)
