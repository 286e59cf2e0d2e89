"""The router: sigmoid, bias, top-k, gather, normalise; and the same with its backward."""

import pytest
import torch
from tests.routing.cases import BENCHMARKS, RouteCase

import mimo_native as mn

from .peers import routing as peers
from .peers.routing import torch_route


@pytest.mark.parametrize("case", BENCHMARKS, ids=str)
def test_route(compare, case: RouteCase) -> None:
    args = case.make()
    logits, bias = args["logits"], args["bias"]
    compare(
        ours=lambda: mn.ops.route(**args),
        torch=lambda: torch_route(logits, bias, case.top_k),
        peers={"torch compiled": lambda: peers.compiled_route(logits, bias, case.top_k)},
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )


def forward_backward(route, logits, cotangent):
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(route(logits)[1], logits, cotangent)
    return grad


@pytest.mark.parametrize("case", BENCHMARKS[-1:], ids=str)
def test_route_backward(compare, case: RouteCase) -> None:
    args = case.make()
    logits, bias = args["logits"].requires_grad_(), args["bias"]
    cotangent = torch.ones(case.tokens, case.top_k)
    compare(
        ours=lambda: forward_backward(
            lambda x: mn.ops.route(x, bias=bias, top_k=case.top_k), logits, cotangent
        ),
        torch=lambda: forward_backward(
            lambda x: torch_route(x, bias, case.top_k), logits, cotangent
        ),
        flops=3 * case.flops,
        bytes=3 * case.bytes,
        dtype=case.dtype,
    )
