"""torch.compile sees one node per layer; results and gradients equal those of eager calls."""

import pytest
import torch

from mimo_native.ops import expert_mlp, pack, swiglu, swiglu_mlp

from .cases import ExpertMlpCase

OPS = torch.ops.mimo_native


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def compiled(f):
    return torch.compile(f, fullgraph=True, backend="aot_eager")


def some_args() -> dict[str, torch.Tensor]:
    case = ExpertMlpCase(tokens=9, width=64, ffn=48, experts=5, slots=3, dtype=torch.bfloat16)
    args = case.make()
    return {n: t.requires_grad_() if t.is_floating_point() else t for n, t in args.items()}


def equal_with_gradients(f, *inputs) -> None:
    got, want = compiled(f)(*inputs), f(*inputs)
    assert got.equal(want)
    needed = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    grads = [torch.autograd.grad(y.float().square().sum(), needed) for y in (got, want)]
    for a, b in zip(*grads, strict=True):
        assert a.equal(b)


def test_layers() -> None:
    args = some_args()
    x, w_gate_up, w_down, ids, weights = args.values()
    equal_with_gradients(expert_mlp, x, w_gate_up, w_down, ids, weights)
    dense = [w[0].detach().requires_grad_() for w in (w_gate_up, w_down)]
    equal_with_gradients(swiglu_mlp, x, *dense)
    equal_with_gradients(swiglu, x)
    packed = [pack(w) for w in (w_gate_up, w_down)]
    equal_with_gradients(lambda x, weights: expert_mlp(x, *packed, ids, weights), x, weights)
    with torch.no_grad():
        got = compiled(lambda x: expert_mlp(x, *packed, ids, weights))(x)
        assert got.equal(expert_mlp(x, *packed, ids, weights))


def test_opcheck() -> None:
    x, w_gate_up, w_down, ids, weights = some_args().values()
    for save in (False, True):
        needing = (x, w_gate_up, None, w_down, None, ids, weights, save)
        args = (
            needing if save else tuple(a.detach() if hasattr(a, "detach") else a for a in needing)
        )
        torch.library.opcheck(OPS.expert_mlp.default, args)
    dense = [w[0].detach().requires_grad_() for w in (w_gate_up, w_down)]
    torch.library.opcheck(
        OPS.expert_mlp.default, (x, dense[0], None, dense[1], None, None, None, True)
    )
    torch.library.opcheck(OPS.swiglu.default, (x,))
    torch.library.opcheck(OPS.swiglu_backward.default, (torch.randn(9, 32).bfloat16(), x.detach()))
