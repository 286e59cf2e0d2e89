"""torch.compile sees one node per call; results and gradients equal those of eager calls."""

import pytest
import torch

from mimo_native import backends, ops

from ..case import FLOATS

OPS = torch.ops.mimo_native


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def compiled(f):
    return torch.compile(f, fullgraph=True, backend="aot_eager")


def leaves(dtype: torch.dtype) -> list[torch.Tensor]:
    shapes = ((2, 40, 4, 24), (2, 40, 2, 24), (2, 40, 2, 16))
    tensors = [torch.randn(*s).to(dtype).requires_grad_() for s in shapes]
    return [*tensors, torch.randn(4, requires_grad=True)]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_attention(dtype: torch.dtype) -> None:
    def f(q, k, v, sink):
        o, lse = ops.attention(q, k, v, sink=sink, window_keys=9, return_lse=True)
        return o.float().square().sum() + lse.sin().sum()

    inputs = leaves(dtype)
    got, want = compiled(f)(*inputs), f(*inputs)
    assert got.equal(want)
    for a, b in zip(*(torch.autograd.grad(y, inputs) for y in (got, want)), strict=True):
        assert a.equal(b)


def test_attention_varlen_without_sink_or_lse() -> None:
    edges = torch.tensor([0, 7, 80])

    def f(q, k, v):
        return ops.attention_varlen(q, k, v, cu_seqlens_q=edges, cu_seqlens_k=edges) * 2

    inputs = [t.flatten(0, 1).detach().requires_grad_() for t in leaves(torch.bfloat16)[:3]]
    got, want = compiled(f)(*inputs), f(*inputs)
    assert got.equal(want)
    grads = [torch.autograd.grad(y.float().sin().sum(), inputs) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert a.equal(b)


def test_a_compiled_call_keeps_the_backend() -> None:
    inputs = [t.detach().double().requires_grad_() for t in leaves(torch.float32)]

    def f(q, k, v, sink):
        return ops.attention(q, k, v, sink=sink)

    with backends.use("reference"):
        got, want = compiled(f)(*inputs), f(*inputs)
        grads = [torch.autograd.grad(y.sin().sum(), inputs) for y in (got, want)]
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, want)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    q, k, v, sink = leaves(dtype)
    call = (sink, None, True, 9, None)
    torch.library.opcheck(OPS.attention.default, (q, k, v, *call))
    torch.library.opcheck(OPS.attention.default, (q, k, v, None, 0.3, False, None, None))
    edges = torch.tensor([0, 7, 80])
    packed = [t.detach().flatten(0, 1).requires_grad_() for t in (q, k, v)]
    packed_call = (sink, None, True, None, edges, edges)
    torch.library.opcheck(OPS.attention_varlen.default, (*packed, *packed_call))

    q, k, v, sink = (t.detach() for t in (q, k, v, sink))
    o, lse = OPS.attention(q, k, v, sink, *call[1:])
    upstream = (torch.randn_like(o), torch.randn_like(lse))
    args = (*upstream, q, k, v, o, lse, sink, *call[1:])
    torch.library.opcheck(OPS.attention_backward.default, args)
