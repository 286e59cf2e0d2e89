"""How far a result may be from its float64 reference, and how a failure is told.

The rounding of a sum of K products, |err| <= c * u * sqrt(K) * (|x| . |w|), u the unit roundoff of
the accumulator, plus one rounding to the stored dtype. Each family fixes its c in cases.py.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "SMALLEST_NORMAL",
    "UNIT_ROUNDOFF",
    "assert_close_bound",
    "noise_bound",
    "rounding_bound",
    "sum_bound",
]

UNIT_ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
# Below this a result may be flushed to zero, which some instructions do.
SMALLEST_NORMAL = 2.0**-126


def sum_bound(
    magnitude: Tensor, terms: int, *, c: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Error of accumulating ``terms`` products in ``dtype``; ``magnitude`` is |x| . |w|."""
    return c * UNIT_ROUNDOFF[dtype] * math.sqrt(terms) * magnitude + terms * SMALLEST_NORMAL


def rounding_bound(want: Tensor, computed: Tensor, dtype: torch.dtype) -> Tensor:
    """``computed`` and one rounding to ``dtype`` of a value that is that far from ``want``."""
    return computed + UNIT_ROUNDOFF[dtype] * (want.abs() + computed) + SMALLEST_NORMAL


def noise_bound(error: Tensor, weight_NK: Tensor) -> Tensor:
    """What independent errors of at most ``error`` [.., K] can become in the sum error . weight.

    All of one sign: the sum of the absolute values. Of random sign they stay within four times the
    root of the sum of squares, seven standard deviations of uniform errors.
    """
    straight = error @ weight_NK.abs().T
    return torch.minimum(straight, 4 * (error.square() @ weight_NK.square().T).sqrt())


def assert_close_bound(got: Tensor, want: Tensor, bound: Tensor | float, what: str = "") -> float:
    """Every |got - want| <= bound; infinities must be equal. Returns the worst error / bound.

    The message gives the count, the first index with both values, and the worst ratio.
    """
    assert got.shape == want.shape, f"{what} shape {list(got.shape)}, expected {list(want.shape)}"
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    bound = torch.as_tensor(bound, dtype=torch.float64).expand(want.shape)
    error = torch.where(got == want, 0.0, (got - want).abs())
    wrong = ~(error <= bound)
    ratio = torch.where(error == 0, 0.0, error / bound).nan_to_num(torch.inf, posinf=torch.inf)
    worst = ratio.max().item() if ratio.numel() else 0.0
    if wrong.any():
        first, at = wrong.nonzero()[0].tolist(), ratio.flatten().argmax()
        index = [int(i) for i in torch.unravel_index(at, ratio.shape)]
        raise AssertionError(
            f"{what} {int(wrong.sum())} of {wrong.numel()} outside the bound; first at {first}: "
            f"got {got[tuple(first)]:.9g}, want {want[tuple(first)]:.9g}, "
            f"bound {bound[tuple(first)]:.3g}; worst error is {worst:.3g} bounds, at {index}"
        )
    return worst
