"""Gradients of linear and grouped_gemm: float64, fixed bits, what is and is not computed."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mimo_native import UnsupportedError, reference
from mimo_native.ops import grouped_gemm, linear, pack

from ..case import FLOATS
from ..tolerance import assert_close_bound, rounding_bound, sum_bound
from .cases import C

FORMAT = {torch.float32: "f32", torch.bfloat16: "bf16"}
SHAPES = [(1, 1, 1), (1, 64, 33), (2, 32, 64), (5, 33, 65), (17, 100, 96), (130, 200, 70)]
GROUPS = [(3, 0, 1, 17, 2), (0, 0, 4), (100,), (0, 0), (1, 1, 1, 1, 1, 1)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check_gradients(x: Tensor, w: Tensor, dy: Tensor, sizes: list[int] | None) -> None:
    """Against torch's float64 gradients of the reference, with the bound of each sum."""

    def product(x, w, ops):
        return ops.linear(x, w) if sizes is None else ops.grouped_gemm(x, w, torch.tensor(sizes))

    x, w = x.requires_grad_(), w.requires_grad_()
    y = linear(x, w) if sizes is None else grouped_gemm(x, w, torch.tensor(sizes))
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    want_dx, want_dw = torch.autograd.grad(product(*wide, reference), wide, dy.double())

    dy_groups = dy.double().abs().split(sizes or [dy.shape[0]])
    x_groups = wide[0].detach().abs().split(sizes or [dy.shape[0]])
    w_groups = wide[1].detach().abs() if sizes is not None else wide[1].detach().abs()[None]
    over_outputs = torch.cat([a @ b for a, b in zip(dy_groups, w_groups, strict=True)])
    over_rows = torch.stack([a.T @ b for a, b in zip(dy_groups, x_groups, strict=True)])
    error = sum_bound(over_outputs, w.shape[-2], c=C)
    assert_close_bound(dx, want_dx, rounding_bound(want_dx, error, x.dtype), "dx")
    error = sum_bound(over_rows, max(sizes or [dy.shape[0]]), c=C).reshape(w.shape)
    assert_close_bound(dw, want_dw, rounding_bound(want_dw, error, w.dtype), "dw")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(isa: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    m, n, k = shape
    check_gradients(
        normal(m, k, dtype=dtype, seed=0),
        normal(n, k, dtype=dtype, seed=1),
        normal(m, n, dtype=dtype, seed=2),
        None,
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("sizes", GROUPS, ids=str)
def test_grouped_gemm(isa: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    m, n, k = sum(sizes), 40, 65
    check_gradients(
        normal(m, k, dtype=dtype, seed=0),
        normal(len(sizes), n, k, dtype=dtype, seed=1),
        normal(m, n, dtype=dtype, seed=2),
        list(sizes),
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_fixed_bits(isa: str, dtype: torch.dtype) -> None:
    x, w = normal(150, 300, dtype=dtype, seed=0), normal(100, 300, dtype=dtype, seed=1)
    dy = normal(150, 100, dtype=dtype, seed=2)

    def gradients(rows: slice) -> tuple[Tensor, ...]:
        inputs = x[rows].requires_grad_(), w.requires_grad_()
        return torch.autograd.grad(linear(*inputs), inputs, dy[rows])

    dx, dw = gradients(slice(None))
    torch.set_num_threads(2)
    again_dx, again_dw = gradients(slice(None))
    assert again_dx.equal(dx)
    assert again_dw.equal(dw)
    for rows in (slice(0, 1), slice(7, 30), slice(100, 150)):
        assert gradients(rows)[0].equal(dx[rows])


def test_inputs_of_mixed_dtypes_and_shapes() -> None:
    x = normal(2, 3, 40, dtype=torch.bfloat16, seed=0).requires_grad_()
    w = normal(33, 40, dtype=torch.bfloat16, seed=1).requires_grad_()
    dy = normal(2, 3, 33, dtype=torch.float32, seed=2)
    dx, dw = torch.autograd.grad(linear(x, w, out_dtype=torch.float32), (x, w), dy)
    rounded = dy.to(torch.bfloat16)
    want_dx, want_dw = torch.autograd.grad(linear(x, w), (x, w), rounded)
    assert dx.equal(want_dx)
    assert dw.equal(want_dw)
    # An expanded gradient, and a float32 weight.
    wide = w.detach().float().requires_grad_()
    dx, dw = torch.autograd.grad(linear(x, wide).sum(), (x, wide))
    assert dx.dtype == torch.bfloat16
    ones = torch.ones(6, 33)
    torch.testing.assert_close(dw, ones.T @ x.detach().float().reshape(6, 40))
    torch.testing.assert_close(dx.float().reshape(6, 40), ones @ wide.detach(), rtol=2**-8, atol=0)


def test_only_what_is_needed() -> None:
    x, w = normal(4, 8, dtype=torch.float32, seed=0), normal(5, 8, dtype=torch.float32, seed=1)
    x.requires_grad_()
    packed = pack(w, format="f32")
    (dx,) = torch.autograd.grad(linear(x, packed).sum(), x)
    assert dx.equal(torch.autograd.grad(linear(x, w).sum(), x)[0])
    y = linear(x.detach(), w.requires_grad_())
    assert torch.autograd.grad(y.sum(), w)[0].shape == w.shape
    with torch.no_grad():
        assert not linear(x, w).requires_grad
    assert not linear(x.detach(), packed).requires_grad
    (dx,) = torch.autograd.grad(linear(x, w).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()
    with pytest.raises(UnsupportedError):
        linear(x.double(), w.double())
