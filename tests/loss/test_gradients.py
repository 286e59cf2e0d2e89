"""Gradients of the losses: float64, every path to them, and what is not computed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mimo_native import backends, ops, reference

from ..case import FLOATS, normal
from ..tolerance import UNIT_ROUNDOFF, assert_close_bound
from .cases import logit_error

# Rows below, at and above the number of inputs: kept weights, and logits formed again.
SIZES = [(1, 1, 1), (3, 33, 5), (40, 1025, 40), (41, 1030, 40), (130, 700, 33), (6, 9000, 64)]
Loss = Callable[..., Tensor]


def cross_entropy(ops, hidden: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    targets = torch.arange(len(hidden)) * 7 % weight.shape[0]
    targets[2::5] = -100
    return ops.linear_cross_entropy(hidden, weight, targets)


def each(ops, hidden: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    targets = torch.arange(len(hidden)) * 7 % weight.shape[0]
    return (ops.linear_cross_entropy(hidden, weight, targets, reduction="none") * grad).sum()


def logprob(ops, hidden: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    ids = torch.arange(3 * len(hidden)).view(-1, 3) * 5 % weight.shape[0]
    got = ops.linear_logprob(hidden, weight, ids, temperature=0.7)
    return (got * torch.stack((grad, grad.flip(0), grad * 0), 1)).sum()


def entropy(ops, hidden: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    ids = torch.arange(len(hidden)) * 3 % weight.shape[0]
    got = ops.linear_logprob(hidden, weight, ids, temperature=1.5, return_entropy=True)
    return (got[0] * grad.flip(0) + got[1] * grad).sum()


def divergence(ops, hidden: Tensor, weight: Tensor, grad: Tensor, **options: object) -> Tensor:
    teacher_hidden = normal(len(hidden), 17, seed=7, dtype=torch.float32)
    teacher_weight = normal(weight.shape[0], 17, seed=8, dtype=torch.float32, std=0.25)
    if ops is reference:
        teacher_hidden, teacher_weight = teacher_hidden.double(), teacher_weight.double()
    got = ops.linear_reverse_kl(
        hidden, weight, teacher_hidden, teacher_weight, temperature=0.8, **options
    )
    return (got * grad).sum()


def top_k(ops, hidden: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    return divergence(ops, hidden, weight, grad, top_k=min(9, weight.shape[0]))


def tail(ops, hidden: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    return divergence(ops, hidden, weight, grad, top_k=1, correction="tail")


LOSSES = (cross_entropy, each, logprob, entropy, divergence, top_k)


def problem(size: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    n, v, d = size
    hidden = normal(n, d, seed=0, dtype=dtype).requires_grad_()
    weight = normal(v, d, seed=1, dtype=dtype, std=d**-0.5).requires_grad_()
    return hidden, weight, normal(n, seed=2, dtype=torch.float32)


def check(loss: Loss, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Against torch's float64 gradients of the reference.

    The logits' gradients d_iv are rounded to the head's dtype, up to twice, and carry the error of
    the logits times what multiplies them; then one sum over the ids and one over the rows.
    """
    hidden, weight, grad = problem(size, dtype)
    got = torch.autograd.grad(loss(ops, hidden, weight, grad), (hidden, weight))
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    want = torch.autograd.grad(loss(reference, *wide, grad.double()), wide)

    h, w = (t.detach() for t in wide)
    d = logit_gradients(loss, h, w, grad.double()).abs()
    u, single = UNIT_ROUNDOFF[dtype], UNIT_ROUNDOFF[torch.float32]
    n, v, _ = size
    error = d * (3 * u + 40 * logit_error(h, w)[:, None]) + 8 * single * d.amax(-1, keepdim=True)
    # What multiplies p is a difference of numbers of the logits' size.
    size_N = (1 + (h @ w.T).abs().amax(-1)) * grad.double().abs()
    error = error + 8 * single * (h @ w.T).softmax(-1) * size_N[:, None]
    dx = error @ w.abs() + 4 * v**0.5 * single * d @ w.abs()
    dw = error.T @ h.abs() + 4 * n**0.5 * single * d.T @ h.abs()
    for name, g, x, bound in zip(("dx", "dw"), got, want, (dx, dw), strict=True):
        assert g.dtype == dtype
        assert_close_bound(g, x, bound + u * x.abs() + 1e-7, name)


def logit_gradients(loss: Loss, h: Tensor, w: Tensor, grad: Tensor) -> Tensor:
    """d [N, V]: hidden states that are the logits, and an identity for a head."""
    logits = (h @ w.T).requires_grad_()
    head = torch.eye(len(w), dtype=torch.float64)
    return torch.autograd.grad(loss(reference, logits, head, grad), logits)[0]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients(isa: str, loss: Loss, size: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(loss, size, dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_several_slices(dtype: torch.dtype) -> None:
    check(cross_entropy, (6, 4500, 64), dtype)
    check(divergence, (6, 4500, 64), dtype)


@pytest.mark.parametrize("loss", [*LOSSES, tail])
def test_the_reference_passes_gradcheck(loss: Loss) -> None:
    hidden, weight, grad = problem((3, 7, 4), torch.float64)
    grad = grad.double()
    torch.autograd.gradcheck(lambda h, w: loss(reference, h, w, grad), (hidden, weight))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_second_backward(dtype: torch.dtype) -> None:
    """What the first backward has used up is formed again."""
    hidden, weight, grad = problem((30, 1500, 40), dtype)
    loss = cross_entropy(ops, hidden, weight, grad)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight), torch.tensor(2.0))
    for a, b in zip(first, second, strict=True):
        scale = float(b.float().abs().max())
        error = float((2 * a.float() - b.float()).abs().max())
        assert error <= scale * (2**-6 if dtype == torch.bfloat16 else 1e-5)


def test_only_what_is_needed() -> None:
    hidden, weight, grad = problem((20, 300, 40), torch.float32)
    both = torch.autograd.grad(each(ops, hidden, weight, grad), (hidden, weight))
    frozen = weight.detach()
    (dx,) = torch.autograd.grad(each(ops, hidden, frozen, grad), hidden)
    torch.testing.assert_close(dx, both[0])
    (dw,) = torch.autograd.grad(each(ops, hidden.detach(), weight, grad), weight)
    assert dw.equal(both[1])
    packed = ops.pack(frozen, format="f32")
    assert torch.autograd.grad(each(ops, hidden, packed, grad), hidden)[0].equal(dx)
    assert not each(ops, hidden.detach(), packed, grad).requires_grad
    with torch.no_grad():
        assert not each(ops, hidden, weight, grad).requires_grad


def test_rows_narrower_than_the_head() -> None:
    hidden, weight, grad = problem((20, 300, 40), torch.float32)
    narrow = hidden.detach().bfloat16().requires_grad_()
    dx, dw = torch.autograd.grad(each(ops, narrow, weight, grad), (narrow, weight))
    wide = narrow.detach().float().requires_grad_()
    want_dx, want_dw = torch.autograd.grad(each(ops, wide, weight, grad), (wide, weight))
    assert dx.equal(want_dx.bfloat16())
    assert dw.equal(want_dw)


def test_strided_rows_and_columns() -> None:
    hidden, weight, grad = problem((20, 300, 40), torch.float32)
    want = torch.autograd.grad(each(ops, hidden, weight, grad), (hidden, weight))
    rows, wide = torch.zeros(20, 64), torch.zeros(300, 50)
    rows[:, :40], wide[:, :40] = hidden.detach(), weight.detach()
    views = rows[:, :40].requires_grad_(), wide[:, :40].requires_grad_()
    got = torch.autograd.grad(each(ops, *views, grad), views)
    assert got[0].equal(want[0])
    assert got[1].equal(want[1])


def test_the_teacher_gets_no_gradient() -> None:
    hidden, weight, _ = problem((4, 50, 8), torch.float32)
    teacher = normal(4, 8, seed=4, dtype=torch.float32).requires_grad_()
    for options in ({}, {"top_k": 5}, {"top_k": 5, "correction": "tail"}):
        kl = ops.linear_reverse_kl(hidden, weight, teacher, weight, **options)
        assert torch.autograd.grad(kl.sum(), teacher, allow_unused=True) == (None,)


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_k": 5, "correction": "tail"}])
def test_teacher_equal_to_student_gives_nothing(options: dict) -> None:
    hidden, weight, _ = problem((9, 50, 8), torch.float32)
    kl = ops.linear_reverse_kl(hidden, weight, hidden, weight, **options)
    torch.testing.assert_close(kl, torch.zeros(9), rtol=0, atol=1e-6)
    for grad in torch.autograd.grad(kl.sum(), (hidden, weight)):
        assert float(grad.abs().max()) < 1e-5


def test_float64_runs_on_the_reference_only() -> None:
    hidden, weight, grad = problem((3, 7, 4), torch.float64)
    with pytest.raises(ValueError, match="float64"):
        each(ops, hidden, weight, grad)
    with backends.use("reference"):
        assert each(ops, hidden, weight, grad).dtype == torch.float64
