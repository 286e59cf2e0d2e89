"""Native gradients at the scalar level against differences of the forward in float64 arithmetic.

The forward is float32, so a difference over 1/64 carries an error of about 1e-5, and the third
derivative as much; independent of the reference and of its gradients.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mimo_native import _C, ops

IDS = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0], [0, 2]], dtype=torch.int32)  # none to expert 1
SIZES = torch.tensor([3, 0, 2])
CALLS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "linear": (ops.linear, ((5, 3), (4, 3))),
    "grouped_gemm": (lambda x, w: ops.grouped_gemm(x, w, SIZES), ((5, 3), (3, 4, 3))),
    "swiglu": (ops.swiglu, ((3, 8),)),
    "swiglu_mlp": (ops.swiglu_mlp, ((3, 4), (6, 4), (4, 3))),
    "expert_mlp": (
        lambda x, g, d, w: ops.expert_mlp(x, g, d, IDS, w),
        ((5, 4), (3, 6, 4), (3, 4, 3), (5, 2)),
    ),
    "route": (lambda x: ops.route(x, top_k=5, replay_ids=_all_but_two(x))[1], ((4, 7),)),
}


def _all_but_two(logits: Tensor) -> Tensor:
    """Fixed ids: a choice that changes with the logits has no derivative."""
    return torch.arange(5, dtype=torch.int32).repeat(logits.shape[0], 1)


@pytest.fixture(autouse=True)
def scalar() -> Iterator[None]:
    before = _C.isa()
    _C.set_isa("scalar")
    yield
    _C.set_isa(before)


@pytest.mark.parametrize("name", CALLS)
def test_gradients(name: str) -> None:
    call, shapes = CALLS[name]
    gen = torch.Generator().manual_seed(1)
    drawn = (torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes)
    inputs = [(t / 2).requires_grad_() for t in drawn]

    def in_float32(*wide: Tensor) -> Tensor:
        return call(*(t.float() for t in wide)).double()

    assert torch.autograd.gradcheck(in_float32, inputs, eps=2**-6, atol=1e-3, rtol=1e-3)
