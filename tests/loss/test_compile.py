"""torch.compile sees the passes as nodes; results and gradients equal those of eager calls."""

import pytest
import torch

from mimo_native import ops

OPS = torch.ops.mimo_native


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def problem() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 40), torch.randn(33, 40)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.tensor([0, 4, 32, 1, -100, 9])


def compiled(f):
    return torch.compile(f, fullgraph=True, backend="aot_eager")


def test_cross_entropy() -> None:
    def f(h, w, t):
        return ops.linear_cross_entropy(h, w, t) * 3

    hidden, weight, targets = problem()
    got, want = compiled(f)(hidden, weight, targets), f(hidden, weight, targets)
    assert got.equal(want)
    grads = [torch.autograd.grad(y, (hidden, weight)) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    packed = ops.pack(weight, format="f32")
    assert compiled(f)(hidden, packed, targets).equal(want)


def test_entropy_and_divergence() -> None:
    def f(h, w, t):
        logprob, entropy = ops.linear_logprob(h, w, t, temperature=0.8, return_entropy=True)
        kl = ops.linear_reverse_kl(h, w, h.detach().flip(0), w.detach(), temperature=0.8)
        return (logprob + 2 * entropy + 3 * kl).sum()

    hidden, weight, targets = problem()
    targets = targets.clamp(min=0)
    got, want = compiled(f)(hidden, weight, targets), f(hidden, weight, targets)
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(y, (hidden, weight)) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_opcheck() -> None:
    hidden, weight, targets = problem()
    ids = targets.clamp(min=0)[:, None]
    name = "linear_logprob"
    torch.library.opcheck(OPS.linear_logprob.default, (name, hidden, weight, None, ids, 1.0, True))
    packed = ops.pack(weight, format="f32")
    args = (name, hidden, packed.storage, packed.spec, ids, 0.7, False)
    torch.library.opcheck(OPS.linear_logprob.default, args)
    teacher = (hidden.detach().flip(0), weight.detach(), None)
    torch.library.opcheck(OPS.linear_reverse_kl.default, (hidden, weight, None, *teacher, 0.9))
