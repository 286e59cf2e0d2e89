"""The objective on numbers: gaps, ratios, advantages, and the loss of equations 5 to 9.

    gap_t = log T(y_t) - log pi(y_t)                              sampled token, no gradient
    A_t   = clip(gap_t) + alpha * A_outcome                       (9); alpha = 0 is (8)
    w_t   = pi / mu if low <= pi / mu <= high, else 0             (7), no gradient
    loss  = -mean over sequences of (1 / |y|) sum_t w_t A_t log pi(y_t)    (5, 6)

pi is the training pass, mu the sampler, T the teacher, all at one temperature over the whole
vocabulary. Dropped tokens stay in |y|, and no later gap counts for an earlier token. The mean of
the gradient over samples is that of the reverse KL at every visited position.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .config import LossConfig

__all__ = ["Tokens", "group_advantages", "policy_loss", "ratio_weights", "token_shares"]


class Tokens(NamedTuple):
    """Of N sampled tokens, float32 [N]: log pi with gradient, log mu, log T, outcome advantage.

    teacher is None where no teacher takes part; share is what each token counts.
    """

    policy: Tensor
    sampler: Tensor
    teacher: Tensor | None
    outcome: Tensor
    share: Tensor


def ratio_weights(policy: Tensor, sampler: Tensor, config: LossConfig) -> Tensor:
    """w of every token, float32 [N], from detached log pi and log mu."""
    if config.mismatch == "none":
        return torch.ones_like(sampler)
    ratio = (policy.detach() - sampler).exp()
    if config.mismatch == "truncate":
        return ratio.clamp(config.ratio_low, config.ratio_high)
    inside = (ratio >= config.ratio_low) & (ratio <= config.ratio_high)
    return torch.where(inside, ratio, 0.0)


def group_advantages(rewards: Tensor, groups: Tensor) -> Tensor:
    """GRPO: a reward minus its group's mean, over the group's standard deviation; float32 [S].

    rewards float32 [S], NaN where there is none; groups int64 [S]. Without reward, or where all of
    a group are alike, 0.
    """
    known = ~rewards.isnan()
    count = int(groups.max()) + 1 if groups.numel() else 0
    value = torch.where(known, rewards, 0.0).double()

    def total(x: Tensor) -> Tensor:
        return torch.zeros(count, dtype=torch.float64).index_add_(0, groups, x)

    sizes = total(known.double()).clamp(min=1)
    mean = (total(value) / sizes)[groups]
    centred = torch.where(known, value - mean, 0.0)
    deviation = (total(centred**2) / sizes).sqrt()[groups]
    return torch.where(deviation > 1e-9, centred / deviation.clamp(min=1e-9), 0.0).float()


def token_shares(lengths: Tensor, normalise: str, sequences: int, tokens: int) -> Tensor:
    """What each token counts, float32 [N], for completions of ``lengths`` int64 [S].

    sequences and tokens: of the whole step, over all micro-batches and ranks.
    """
    if normalise == "token":
        return torch.full((int(lengths.sum()),), 1.0 / tokens)
    return torch.repeat_interleave(1.0 / (lengths.double() * sequences), lengths).float()


def policy_loss(tokens: Tokens, config: LossConfig) -> Tensor:
    """The loss of the sampled form, float32 []; its gradient reaches ``tokens.policy`` alone."""
    advantage = config.alpha * tokens.outcome
    if tokens.teacher is not None:
        gap = tokens.teacher - tokens.policy.detach()
        if config.advantage_clip is not None:
            gap = gap.clamp(-config.advantage_clip, config.advantage_clip)
        advantage = gap + advantage
    weight = ratio_weights(tokens.policy, tokens.sampler, config)
    return -(tokens.share * weight * advantage * tokens.policy).sum()
