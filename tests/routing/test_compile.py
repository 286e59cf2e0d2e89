"""torch.compile sees the router as one node; results and gradients equal those of eager calls."""

import pytest
import torch

from mimo_native.ops import route

from ..case import as_tuple
from .cases import RouteCase

OP = torch.ops.mimo_native.route.default
CASES = [
    RouteCase(tokens=9, experts=32, top_k=4, bias="normal"),
    RouteCase(tokens=9, experts=32, top_k=4, scoring="softmax", return_stats=True, scaling=2.5),
    RouteCase(tokens=9, experts=32, top_k=4, n_group=4, topk_group=2, normalize=False),
    RouteCase(tokens=9, experts=32, top_k=4, replay=True, return_stats=True),
]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_equals_eager(case: RouteCase) -> None:
    args = case.make()
    logits = args.pop("logits").requires_grad_()

    def call(logits):
        return route(logits, **args)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for f in (compiled, call):
        outputs = as_tuple(f(logits))
        loss = sum((i + 1) * t.square().sum() for i, t in enumerate(outputs) if t.requires_grad)
        results.append((*outputs, *torch.autograd.grad(loss, logits)))
    for got, want in zip(*results, strict=True):
        assert got.equal(want)
    with torch.no_grad():
        for got, want in zip(as_tuple(compiled(logits)), as_tuple(call(logits)), strict=True):
            assert got.equal(want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case: RouteCase) -> None:
    args = case.make()
    stats = args.pop("return_stats")
    order = ("bias", "top_k", "scoring", "normalize", "scaling", "n_group", "topk_group")
    rest = (*(args[name] for name in order), args.get("replay_ids"), stats)
    torch.library.opcheck(OP, (args["logits"], *rest))
    torch.library.opcheck(OP, (args["logits"].requires_grad_(), *rest))


def test_opcheck_of_the_backward() -> None:
    logits, ids = torch.randn(5, 8), torch.randperm(8)[:3].int().expand(5, 3).contiguous()
    for grads in ((torch.randn(5, 3), None), (torch.randn(5, 3), torch.randn(8))):
        args = (logits, ids, "sigmoid", True, 1.0, *grads)
        torch.library.opcheck(torch.ops.mimo_native.route_backward.default, args)
