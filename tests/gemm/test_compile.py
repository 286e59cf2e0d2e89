"""torch.compile sees one node per call; results and gradients equal those of eager calls."""

import pytest
import torch

from mimo_native import ShapeError, backends
from mimo_native.ops import grouped_gemm, linear, pack

OPS = torch.ops.mimo_native


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def compiled(f):
    # aot_eager traces and differentiates as inductor does, without a C++ compiler.
    return torch.compile(f, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=str)
def test_linear(out_dtype: torch.dtype | None) -> None:
    def f(x, w):
        return linear(x, w, out_dtype=out_dtype) * 2

    x = torch.randn(2, 3, 40, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(33, 40, dtype=torch.bfloat16, requires_grad=True)
    got, want = compiled(f)(x, w), f(x, w)
    assert got.equal(want)
    grads = [torch.autograd.grad(y.float().square().sum(), (x, w)) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert a.equal(b)
    packed = pack(w)
    got, want = compiled(f)(x, packed), f(x, packed)
    assert got.equal(want)
    dx = [torch.autograd.grad(y.float().sum(), x)[0] for y in (got, want)]
    assert dx[0].equal(dx[1])


def test_grouped_gemm() -> None:
    x = torch.randn(9, 40, requires_grad=True)
    w = torch.randn(3, 33, 40, requires_grad=True)
    sizes = torch.tensor([4, 0, 5])
    got, want = compiled(grouped_gemm)(x, w, sizes), grouped_gemm(x, w, sizes)
    assert got.equal(want)
    grads = [torch.autograd.grad(y.sin().sum(), (x, w)) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert a.equal(b)


def test_a_compiled_call_keeps_errors_and_backends() -> None:
    f = compiled(linear)
    with pytest.raises(Exception, match="K = 4") as caught:
        f(torch.ones(2, 3), torch.ones(5, 4))
    assert isinstance(caught.value, ShapeError) or "ShapeError" in repr(caught.value)
    x, w = torch.ones(2, 3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64)
    with backends.use("reference"):
        assert f(x, w).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    x = torch.randn(6, 40).to(dtype).requires_grad_()
    w = torch.randn(33, 40).to(dtype).requires_grad_()
    packed = pack(w, format="f32" if dtype is torch.float32 else "bf16")
    torch.library.opcheck(OPS.linear.default, (x, w, None, None))
    torch.library.opcheck(OPS.linear.default, (x, w, None, torch.float32))
    torch.library.opcheck(OPS.linear.default, (x, packed.storage, packed.spec, None))
    stack = torch.randn(2, 33, 40).to(dtype).requires_grad_()
    torch.library.opcheck(OPS.grouped_gemm.default, (x, stack, None, torch.tensor([2, 4])))
    dy = torch.randn(6, 33).to(dtype)
    for needs in ((True, True), (True, False), (False, True)):
        args = (dy, x.detach(), w.detach(), None, None, *needs)
        torch.library.opcheck(OPS.product_backward.default, args)
