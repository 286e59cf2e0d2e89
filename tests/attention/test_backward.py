"""Gradients of the kernels against float64 autograd, at every ISA level, and of the sink alone."""

import pytest
import torch
from torch import Tensor

from mimo_native import ops, reference
from mimo_native.errors import UnsupportedError

from ..case import FLOATS
from ..tolerance import assert_close_bound
from .cases import CASES, AttentionCase, CachedCase, VarlenCase
from .gradients import Upstream, exact, gradients, upstream

HEADS = {"heads": 6, "groups": 2, "qk": 48, "v": 32}
NAMES = ("dq", "dk", "dv", "dsink")
DIFFERENTIABLE = [case for case in CASES if not isinstance(case, CachedCase)]
# Several jobs of tokens, so that partial sums are added up; and tiles of more than one panel.
LONG = [
    AttentionCase(queries=n, heads=4, groups=2, qk=32, v=16, window=w, sink="spread", dtype=t)
    for n, w in ((700, None), (700, 20), (600, 300), (1100, 129))
    for t in FLOATS
]


def check(case: AttentionCase | VarlenCase) -> None:
    args = case.make()
    got = gradients(getattr(ops, case.op), args, upstream(case, args))
    for name, g, want, bound in zip(NAMES, got, *exact(case), strict=False):
        assert_close_bound(g, want, bound, f"{case} {name}:")


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_every_case_is_within_its_bound(isa: str, case) -> None:
    check(case)


@pytest.mark.parametrize("case", LONG, ids=str)
def test_long_sequences_in_several_jobs(isa: str, case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("qk", [1, 7, 16, 40, 80, 130])
@pytest.mark.parametrize("v", [1, 16, 17, 72, 144])
def test_head_dims_of_any_size(qk: int, v: int, dtype) -> None:
    check(AttentionCase(queries=70, heads=3, groups=1, qk=qk, v=v, window=30, sink="spread",
                        dtype=dtype))  # fmt: skip


@pytest.mark.parametrize("lse_only", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_loss_through_one_output_only(dtype, lse_only: bool) -> None:
    case = AttentionCase(queries=90, window=40, sink="spread", dtype=dtype, **HEADS)
    args, wanted = case.make(), ("q", "k", "v", "sink")
    up = upstream(case, args)
    if lse_only:
        up = Upstream(torch.zeros_like(up.dout), up.dlse)
    else:
        up = Upstream(up.dout, torch.zeros_like(up.dlse))
    both = gradients(ops.attention, args, up)
    leaves = {n: args[n].detach().requires_grad_() for n in wanted}
    o, lse = ops.attention(**{**args, **leaves})
    loss = (lse * up.dlse).sum() if lse_only else (o * up.dout).sum()
    for got, want in zip(torch.autograd.grad(loss, list(leaves.values())), both, strict=True):
        assert torch.equal(got, want)
    if not lse_only:  # without return_lse the node is the same
        leaves = {n: args[n].detach().requires_grad_() for n in wanted}
        o = ops.attention(**{**args, **leaves, "return_lse": False})
        again = torch.autograd.grad((o * up.dout).sum(), list(leaves.values()))
        assert all(map(torch.equal, again, both))


def test_gradcheck_of_the_reference() -> None:
    """The oracle itself: its autograd against finite differences in float64."""
    gen = torch.Generator().manual_seed(1)

    def leaf(*size: int) -> Tensor:
        return torch.randn(*size, generator=gen, dtype=torch.float64).requires_grad_()

    q, k, v, sink = leaf(7, 4, 6), leaf(8, 2, 6), leaf(8, 2, 5), leaf(4)
    edges = torch.tensor([0, 3, 3, 7]), torch.tensor([0, 5, 6, 8])
    for window in (None, 2):

        def packed(q, k, v, sink, window=window):
            return reference.attention_varlen(
                q, k, v, cu_seqlens_q=edges[0], cu_seqlens_k=edges[1], window_keys=window,
                sink=sink, return_lse=True,
            )  # fmt: skip

        assert torch.autograd.gradcheck(packed, (q, k, v, sink))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("level", [-8.0, -3.0, 0.0, 2.5, 8.0])
def test_sink_against_finite_differences(isa: str, dtype, level: float) -> None:
    """Differences of the float64 loss, so that neither autograd nor the kernels' formula helps."""
    case = AttentionCase(queries=150, window=33, dtype=dtype, **HEADS)
    args = {**case.make(), "sink": torch.linspace(-0.5, 0.5, 6) + level}
    up = upstream(case, args)
    got = gradients(ops.attention, args, up)[3]
    wide = {n: args[n].double() for n in ("q", "k", "v")}

    def loss(sink: Tensor) -> Tensor:
        o, lse = reference.attention(**wide, sink=sink, window_keys=33, return_lse=True)
        by_head = (o * up.dout.double()).sum((0, 1, 3)) + (lse * up.dlse.double()).sum((0, 2))
        return by_head

    sink, step = args["sink"].double(), 1e-5
    want = (loss(sink + step) - loss(sink - step)) / (2 * step)
    # Rows are rounded independently of one another; the sink's weight scales each.
    _, lse = reference.attention(**wide, sink=sink, window_keys=33, return_lse=True)
    size = 8 * (2 * (sink[:, None] - lse)).exp().sum((0, 2)).sqrt()
    tolerance = 2e-6 if dtype == torch.float32 else 4e-3
    assert_close_bound(got, want, tolerance * size + 1e-8, "dsink:")
    assert (want.abs() > 10 * tolerance * size).any()


@pytest.mark.parametrize("value", [-torch.inf, 30.0])
def test_extreme_sinks(isa: str, value: float) -> None:
    q, k, v = (torch.randn(1, 80, h, 16, requires_grad=True) for h in (2, 1, 1))
    sink = torch.full((2,), value, requires_grad=True)
    o, lse = ops.attention(q, k, v, sink=sink, window_keys=9, return_lse=True)
    dq, dk, dv, dsink = torch.autograd.grad((o.sum() + lse.sum()), (q, k, v, sink))
    if value == 30.0:
        # Everything goes to the sink: lse = sink, and its derivative is 1 for each row.
        assert_close_bound(dsink, torch.full((2,), 80.0), 1e-4)
        assert max(g.abs().max() for g in (dq, dk, dv)) < 1e-6
        return
    assert torch.equal(dsink, torch.zeros(2))
    plain = ops.attention(q, k, v, window_keys=9, return_lse=True)
    without = torch.autograd.grad(plain[0].sum() + plain[1].sum(), (q, k, v))
    assert all(map(torch.equal, (dq, dk, dv), without))


def test_rows_that_see_only_the_sink(isa: str) -> None:
    """Queries before all keys: o = 0 and lse = sink, so that only dlse comes back."""
    q, k, v = (torch.randn(1, n, h, 16, requires_grad=True) for n, h in ((9, 4), (3, 2), (3, 2)))
    sink = torch.randn(4, requires_grad=True)
    o, lse = ops.attention(q, k, v, sink=sink, return_lse=True)
    dout, dlse = torch.randn_like(o), torch.randn_like(lse)
    dout[:, 6:], dlse[:, :, 6:] = 0, 0
    dq, dk, dv, dsink = torch.autograd.grad((o, lse), (q, k, v, sink), (dout, dlse))
    assert not any(g.any() for g in (dq, dk, dv))
    assert_close_bound(dsink, dlse.double().sum((0, 2)), 1e-6)
    blind = torch.autograd.grad(ops.attention(q, k, v)[:, :6].sum(), (q, k, v))
    assert not any(g.any() for g in blind)


def test_what_has_no_backward_is_refused() -> None:
    q = torch.randn(1, 3, 2, 16, dtype=torch.float64, requires_grad=True)
    with pytest.raises(UnsupportedError, match="float64"):
        ops.attention(q, q, q)
