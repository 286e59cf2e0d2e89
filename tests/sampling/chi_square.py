"""Do draws follow a distribution?"""

import torch
from torch import Tensor

__all__ = ["p_value"]


def p_value(counts: Tensor, p: Tensor) -> float:
    """Pearson's test of ``counts`` [V] against probabilities proportional to ``p`` [V].

    Fails outright where a count is expected below 20, or an impossible id was drawn.
    """
    p = p.double()
    expected = (p / p.sum() * counts.sum())[p > 0]
    assert expected.min() >= 20
    assert counts[p == 0].sum() == 0
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    freedom = (p > 0).sum().double() - 1
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()
