"""Gradients of attention beside autograd of the banded formula (window) or of SDPA (global)."""

from functools import partial

import pytest
import torch
from tests.attention.cases import BENCHMARKS, AttentionCase
from torch import Tensor

import mimo_native as mn

from .peers import attention_backward as peers

# Scores, dP, dQ, dK and dV: five products where the forward has two.
BACKWARD_FLOPS = 2.6
HEADS = {"heads": 8, "groups": 1, "qk": 192, "v": 128}
CASES = [
    *(c for c in BENCHMARKS if isinstance(c, AttentionCase) and c.window),
    *(AttentionCase(queries=n, dtype=torch.bfloat16, **HEADS) for n in (512, 2048, 8192)),
]


def replay(outputs: Tensor, inputs: list[Tensor]):
    up = torch.randn_like(outputs)
    return partial(torch.autograd.grad, outputs, inputs, up, retain_graph=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward(compare, case: AttentionCase) -> None:
    args = case.make()
    names = ["q", "k", "v", *(["sink"] if args["sink"] is not None else [])]
    leaves = {n: args[n].requires_grad_() for n in names}
    inputs = list(leaves.values())
    with torch.enable_grad():
        q, k, v = (leaves[n][0] for n in ("q", "k", "v"))
        o = mn.ops.attention(**{**args, **leaves, "return_lse": False})
        if case.window:
            theirs = peers.banded_attention(q, k, v, leaves["sink"], case.window)
        else:
            theirs = peers.padded_sdpa(q, k, v)
    tolerance = 1e-4 if case.dtype is torch.float32 else 3e-2
    torch.testing.assert_close(o[0], theirs, rtol=tolerance, atol=tolerance)
    compare(
        ours=replay(o, inputs),
        torch=replay(theirs, inputs),
        flops=BACKWARD_FLOPS * case.flops,
        bytes=3 * case.bytes,
        dtype=case.dtype,
    )
