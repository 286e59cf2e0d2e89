"""Gradients of the native router against autograd through the float64 reference."""

import pytest
import torch
from torch import Tensor

from mimo_native import ops, reference

from ..case import normal
from ..tolerance import UNIT_ROUNDOFF, assert_close_bound

C = 16.0  # two exponentials, two quotients and the products around them


def gradient(route, logits: Tensor, options: dict, cotangents: tuple[Tensor, ...]) -> Tensor:
    logits = logits.detach().clone().requires_grad_()
    _, weights, stats = route(logits, **options, return_stats=True)
    outputs = zip((weights, stats.mean_score), cotangents, strict=True)
    sum((output * cotangent.to(output.dtype)).sum() for output, cotangent in outputs).backward()
    return logits.grad


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 8, 2), (70, 256, 8), (5, 33, 33), (3, 1000, 20)]
)
def test_gradients_equal_the_reference(
    tokens: int, experts: int, top_k: int, scoring: str, normalize: bool, isa: str
) -> None:
    logits = normal(tokens, experts, seed=0, dtype=torch.float32, std=2.0)
    options = {"top_k": top_k, "scoring": scoring, "normalize": normalize, "scaling": 1.5}
    options["replay_ids"] = ops.route(logits, **options)[0]
    cotangents = (
        normal(tokens, top_k, seed=1, dtype=torch.float32),
        normal(experts, seed=2, dtype=torch.float32, std=10.0),
    )
    got = gradient(ops.route, logits, options, cotangents)
    want = gradient(reference.route, logits.double(), options, cotangents)
    # Differences of terms of the row's size remain; each term carries a few roundings.
    size = want.abs().amax(-1, keepdim=True) + 0.1 * cotangents[0].abs().amax(-1, keepdim=True)
    assert_close_bound(got, want, C * UNIT_ROUNDOFF[torch.float32] * size * top_k**0.5)


def test_each_output_alone_has_a_gradient(isa: str) -> None:
    logits = normal(9, 16, seed=3, dtype=torch.float32)
    for select in (lambda w, s: w[:, 0].sum(), lambda w, s: s.mean_score[3]):
        grads = []
        for route, x in ((ops.route, logits), (reference.route, logits.double())):
            x = x.clone().requires_grad_()
            _, weights, stats = route(x, top_k=3, return_stats=True)
            select(weights, stats).backward()
            grads.append(x.grad)
        assert_close_bound(*grads, 1e-7)
        assert grads[0].abs().max() > 1e-3


def test_saturated_scores_keep_their_digits(isa: str) -> None:
    """d sigmoid = s (1 - s) where s rounds to 1: 1 - s must not be formed by subtraction."""
    logits = torch.tensor([[12.0, 18.0, 30.0, -30.0]])
    options = {"top_k": 4, "normalize": False}
    options["replay_ids"] = torch.arange(4)[None]
    cotangents = (torch.ones(1, 4), torch.zeros(4))
    got = gradient(ops.route, logits, options, cotangents)
    want = logits.double().sigmoid() * (-logits.double()).sigmoid()
    assert_close_bound(got, want, 1e-6 * want)


def test_ids_and_counts_take_no_gradient_and_strided_cotangents_are_served() -> None:
    logits = normal(4, 8, seed=5, dtype=torch.float32).requires_grad_()
    ids, weights, stats = ops.route(logits, top_k=2, return_stats=True)
    assert not ids.requires_grad
    assert not stats.counts.requires_grad
    (weights.T.contiguous().T * torch.arange(2.0)).sum().backward()
    assert logits.grad.abs().sum() > 0


def test_tokens_have_the_same_gradient_bits_on_any_thread() -> None:
    logits = normal(300, 256, seed=6, dtype=torch.float32)
    cotangents = (normal(300, 8, seed=7, dtype=torch.float32), torch.ones(256))
    threads, grads = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        grads.append(gradient(ops.route, logits, {"top_k": 8}, cotangents))
    torch.set_num_threads(threads)
    assert grads[0].equal(grads[1])
