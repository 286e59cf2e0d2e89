"""The objective against closed forms, its limits at the band's edges, and the exact gradient."""

import math

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native.mopd import LossConfig
from mimo_native.mopd.policy import (
    Tokens,
    group_advantages,
    policy_loss,
    ratio_weights,
    token_shares,
)


def tokens(policy: list[float], sampler: list[float], **given: list[float] | None) -> Tokens:
    n = len(policy)
    teacher = given.get("teacher", [0.0] * n)
    return Tokens(
        torch.tensor(policy, requires_grad=True),
        torch.tensor(sampler),
        None if teacher is None else torch.tensor(teacher),
        torch.tensor(given.get("outcome") or [0.0] * n),
        torch.tensor(given.get("share") or [1.0] * n),
    )


def gradient(t: Tokens, config: LossConfig) -> list[float]:
    policy_loss(t, config).backward()
    assert t.policy.grad is not None
    return t.policy.grad.tolist()


def test_equation_8_by_hand() -> None:
    """d loss / d log pi = -share * (pi / mu) * (log T - log pi), the gap without gradient."""
    policy, sampler, teacher, share = [-1.0, -2.5], [-1.2, -2.4], [-0.5, -3.5], [0.25, 0.125]
    got = gradient(tokens(policy, sampler, teacher=teacher, share=share), LossConfig())
    want = [
        -s * math.exp(p - m) * (t - p)
        for s, p, m, t in zip(share, policy, sampler, teacher, strict=True)
    ]
    assert got == pytest.approx(want, rel=1e-6)


def test_equation_9_adds_the_outcome() -> None:
    t = tokens([-1.0, -2.0], [-1.0, -2.0], teacher=[-1.5, -1.0], outcome=[2.0, -1.0])
    got = gradient(t, LossConfig(alpha=0.3))
    assert got == pytest.approx([-(-0.5 + 0.6), -(1.0 - 0.3)], rel=1e-6)


def test_without_a_teacher_the_outcome_is_the_advantage() -> None:
    t = tokens([-1.0, -2.0], [-1.0, -2.0], teacher=None, outcome=[2.0, -1.0])
    assert gradient(t, LossConfig(alpha=0.5)) == pytest.approx([-1.0, 0.5])


def test_a_clipped_gap() -> None:
    t = tokens([-9.0, -1.0], [-9.0, -1.0], teacher=[-0.5, -9.0])
    assert gradient(t, LossConfig(advantage_clip=5.0)) == pytest.approx([-5.0, 5.0])
    t = tokens([-9.0, -1.0], [-9.0, -1.0], teacher=[-0.5, -9.0])
    assert gradient(t, LossConfig(advantage_clip=None)) == pytest.approx([-8.5, 8.0])


# log 0.5 and log 4 have exact float32 neighbours on either side.
RATIOS = [0.0, math.log(0.49), math.log(0.51), math.log(4.9), math.log(5.1)]


@pytest.mark.parametrize(
    ("mismatch", "want"),
    [
        ("icepop", [1.0, 0.0, 0.51, 4.9, 0.0]),
        ("truncate", [1.0, 0.5, 0.51, 4.9, 5.0]),
        ("none", [1.0] * 5),
    ],
)
def test_the_band(mismatch: str, want: list[float]) -> None:
    weights = ratio_weights(torch.tensor(RATIOS), torch.zeros(5), LossConfig(mismatch=mismatch))
    assert weights.tolist() == pytest.approx(want, rel=1e-6)


def test_the_band_holds_its_ends() -> None:
    """A ratio equal to a bound is inside."""
    policy, sampler = torch.tensor([-1.0, -1.0]), torch.tensor([-1.5, -0.5])
    low, high = (policy - sampler).exp().sort().values.tolist()
    inside = LossConfig(ratio_low=low, ratio_high=high)
    assert ratio_weights(policy, sampler, inside).tolist() == pytest.approx([high, low])
    outside = LossConfig(ratio_low=low * 1.0001, ratio_high=high * 0.9999)
    assert ratio_weights(policy, sampler, outside).tolist() == [0.0, 0.0]


def test_shares_are_means_of_means() -> None:
    lengths = torch.tensor([1, 4])
    got = token_shares(lengths, "sequence", sequences=2, tokens=5)
    assert got.tolist() == pytest.approx([0.5] + [0.125] * 4)
    assert token_shares(lengths, "token", sequences=2, tokens=5).tolist() == pytest.approx(
        [0.2] * 5
    )


def test_a_dropped_token_stays_in_the_length() -> None:
    share = token_shares(torch.tensor([2]), "sequence", sequences=1, tokens=2)
    t = tokens([-1.0, -1.0], [-1.0, 5.0], teacher=[0.0, 0.0], share=share.tolist())
    assert gradient(t, LossConfig()) == pytest.approx([-0.5, 0.0])


def test_group_advantages() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, float("nan"), 2.0])
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    got = group_advantages(rewards, groups).tolist()
    high, low = 0.75 / math.sqrt(3 / 16), -0.25 / math.sqrt(3 / 16)
    assert got == pytest.approx([high, low, low, low, 0.0, 0.0, 0.0, 0.0], rel=1e-6)


def _policy(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(-1)


def test_the_sampled_gradient_averages_to_that_of_reverse_kl() -> None:
    """2e5 samples of equation 8 against the full vocabulary's gradient, below 2 % apart."""
    generator = torch.Generator().manual_seed(3)
    vocab, samples = 32, 200_000
    logits = torch.randn(vocab, generator=generator, requires_grad=True)
    teacher = _policy(torch.randn(vocab, generator=generator))
    config = LossConfig(advantage_clip=None)

    logp = _policy(logits)
    (logp.exp() * (logp - teacher)).sum().backward()
    assert logits.grad is not None
    want, logits.grad = logits.grad, None

    drawn = torch.multinomial(logp.detach().exp(), samples, replacement=True, generator=generator)
    policy = _policy(logits)[drawn].float()
    share = torch.full((samples,), 1.0 / samples)
    t = Tokens(policy, policy.detach(), teacher[drawn].float(), torch.zeros(samples), share)
    policy_loss(t, config).backward()
    error = (logits.grad - want).norm() / want.norm()
    assert error < 0.02
    # A form that forgot the gap, or took that of the sampler for a wrong teacher, is far off.
    assert want.norm() > 0.05


def test_plain_top_k_is_refused() -> None:
    with pytest.raises(mn.UnsupportedError, match="collapses"):
        LossConfig(form="top_k", correction=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"ratio_low": 1.5},
        {"ratio_high": 0.5},
        {"alpha": -1.0},
        {"advantage_clip": 0.0},
        {"form": "forward"},
        {"mismatch": "clip"},
        {"normalise": "batch"},
    ],
)
def test_bad_settings(changes: dict[str, object]) -> None:
    with pytest.raises(mn.ShapeError):
        LossConfig(**changes)
