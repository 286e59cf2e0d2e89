"""Gradients of rms_norm and rope against float64 autograd, at every ISA level; compiled calls."""

import pytest
import torch
from torch import Tensor

from mimo_native import backends, ops, reference

from ..case import FLOATS
from ..tolerance import UNIT_ROUNDOFF, assert_close_bound, rounding_bound, sum_bound
from .cases import C_NORM, C_ROPE, CASES, RmsNormCase, RopeCase

NORMS = [case for case in CASES if isinstance(case, RmsNormCase)]
ROPES = [case for case in CASES if isinstance(case, RopeCase)]
OPS = torch.ops.mimo_native


def leaves(*tensors: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    return [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]


@pytest.mark.parametrize("case", NORMS, ids=str)
def test_rms_norm(isa: str, case: RmsNormCase) -> None:
    args = case.make()
    x, weight = leaves(args["x"], args["weight"])
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).to(x.dtype)
    got = torch.autograd.grad(ops.rms_norm(x, weight, eps=case.eps), (x, weight), dy)
    wide_x, wide_weight = leaves(x, weight, dtype=torch.float64)
    y = reference.rms_norm(wide_x, wide_weight, eps=case.eps)
    want = torch.autograd.grad(y, (wide_x, wide_weight), dy.double())

    dim, rows = x.shape[-1], max(x.shape[:-1].numel(), 1)
    x64, g = wide_x.detach(), dy.double() * wide_weight.detach()
    root = (x64.square().mean(-1, keepdim=True) + case.eps).rsqrt()
    normed = x64 * root
    # Both terms of dx, the second a mean of products, each with the error of its sum.
    size = root * (g.abs() + normed.abs() * (g * normed).abs().mean(-1, keepdim=True))
    dx = rounding_bound(want[0], sum_bound(size, dim + 6, c=C_NORM), x.dtype)
    parts = (dy.double() * normed).abs().reshape(-1, dim).sum(0)
    dweight = rounding_bound(want[1], sum_bound(parts, rows + dim + 4, c=C_NORM), weight.dtype)
    assert_close_bound(got[0], want[0], dx, "dx:")
    assert_close_bound(got[1], want[1], dweight, "dweight:")


@pytest.mark.parametrize("case", ROPES, ids=str)
def test_rope(isa: str, case: RopeCase) -> None:
    args = case.make()
    qkv = [args[n].requires_grad_() for n in ("q", "k", "v")]
    scale = {"value_scale": case.value_scale}
    outputs = ops.rope(*qkv, args["table"], **scale)
    gen = torch.Generator().manual_seed(5)
    up = [torch.randn(o.shape, generator=gen).to(o.dtype) for o in outputs]
    got = torch.autograd.grad(outputs, qkv, up)
    wide = leaves(*qkv, dtype=torch.float64)
    table = args["table"].double()
    want = torch.autograd.grad(
        reference.rope(*wide, table, **scale), wide, [u.double() for u in up]
    )
    half = case.rotary_dim // 2
    for name, g, w, u in zip("qkv", got, want, up, strict=True):
        size = u.double().abs()
        if name != "v":  # a pair's two products
            pair = size[..., :half] + size[..., half : 2 * half]
            size = torch.cat((pair, pair, size[..., 2 * half :]), dim=-1)
        bound = rounding_bound(w, sum_bound(size, 1, c=C_ROPE), g.dtype)
        assert_close_bound(g, w, bound, f"d{name}:")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_thread_counts_do_not_change_bits(dtype: torch.dtype) -> None:
    x, weight = torch.randn(700, 96).to(dtype), torch.randn(96).to(dtype)
    dy = torch.randn(700, 96).to(dtype)

    def grads() -> tuple[Tensor, ...]:
        pair = leaves(x, weight)
        return torch.autograd.grad(ops.rms_norm(*pair), pair, dy)

    want, threads = grads(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, grads(), want))
    finally:
        torch.set_num_threads(threads)


def test_a_strided_input_and_an_expanded_gradient() -> None:
    wide = torch.randn(40, 64)
    x, dense = wide[:, :32].requires_grad_(), wide[:, :32].contiguous().requires_grad_()
    weight = torch.randn(32, requires_grad=True)
    got = torch.autograd.grad(ops.rms_norm(x, weight).sum(), (x, weight))
    want = torch.autograd.grad(ops.rms_norm(dense, weight).sum(), (dense, weight))
    assert all(map(torch.equal, got, want))


def test_gradient_of_a_row_of_zeros_is_finite() -> None:
    x, weight = leaves(torch.zeros(2, 32), torch.ones(32))
    dx, _ = torch.autograd.grad(ops.rms_norm(x, weight, eps=1e-6), (x, weight), torch.ones(2, 32))
    torch.testing.assert_close(
        dx, torch.full((2, 32), 1e3), rtol=4 * UNIT_ROUNDOFF[x.dtype], atol=0
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_compiled_calls_and_opcheck(dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    x, weight = leaves(torch.randn(6, 24).to(dtype), torch.randn(24))
    weight = weight if dtype == torch.bfloat16 else weight.detach().to(dtype).requires_grad_()
    q, k, v = leaves(*(torch.randn(6, h, 24).to(dtype) for h in (4, 2, 2)))
    table = ops.rope_table(torch.arange(6), theta=1e4, rotary_dim=8)

    def f(x, weight, q, k, v):
        y = ops.rms_norm(x, weight)
        turned = ops.rope(q, k, v, table, value_scale=0.7)
        return y.float().sin().sum() + sum(t.float().square().sum() for t in turned)

    inputs = (x, weight, q, k, v)
    got, want = torch.compile(f, fullgraph=True, backend="aot_eager")(*inputs), f(*inputs)
    assert got.equal(want)
    for a, b in zip(*(torch.autograd.grad(y, inputs) for y in (got, want)), strict=True):
        assert a.equal(b)
    torch.library.opcheck(OPS.rms_norm.default, (x, weight, 1e-5))
    torch.library.opcheck(OPS.rope.default, (q, k, v, table, 0.7))
    dy, d = torch.randn(6, 24).to(dtype), [torch.randn_like(t) for t in (q, k, v)]
    torch.library.opcheck(OPS.rms_norm_backward.default, (dy, x.detach(), weight.detach(), 1e-5))
    torch.library.opcheck(OPS.rope_backward.default, (*d, table, 0.7))


def test_compiled_calls_keep_the_backend() -> None:
    torch._dynamo.reset()
    x, weight, q, k, v = leaves(
        torch.randn(6, 24), torch.randn(24), *(torch.randn(6, h, 24) for h in (4, 2, 2)),
        dtype=torch.float64,
    )  # fmt: skip
    table = reference.rope_table(torch.arange(6), theta=1e4, rotary_dim=8)

    def f(x, weight, q, k, v):
        turned = ops.rope(q, k, v, table, value_scale=0.7)
        return ops.rms_norm(x, weight).sin().sum() + sum(t.square().sum() for t in turned)

    inputs = (x, weight, q, k, v)
    with backends.use("reference"):
        got, want = torch.compile(f, fullgraph=True, backend="aot_eager")(*inputs), f(*inputs)
        grads = [torch.autograd.grad(y, inputs) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
