"""Forward and backward of the cross-entropy of a large vocabulary beside torch's."""

import pytest
import torch
import torch.nn.functional as F
from tests.loss.cases import BENCHMARKS, CrossEntropyCase

import mimo_native as mn


@pytest.mark.parametrize("case", BENCHMARKS, ids=str)
def test_linear_cross_entropy(compare, case: CrossEntropyCase) -> None:
    args = case.make()
    hidden, weight = args["hidden"].requires_grad_(), args["weight"].requires_grad_()

    def step(loss) -> None:
        with torch.enable_grad():
            torch.autograd.grad(loss(hidden, weight, args["targets"]), (hidden, weight))

    compare(
        ours=lambda: step(mn.ops.linear_cross_entropy),
        torch=lambda: step(F.linear_cross_entropy),
        flops=3 * case.flops,
        bytes=2 * case.bytes,
        dtype=case.dtype,
    )
