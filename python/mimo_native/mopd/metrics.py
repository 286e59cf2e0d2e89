"""What a step of post-training shows: gaps, mismatch, entropy, lengths and rewards by domain."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .config import LossConfig
from .loop import summed
from .objective import PolicyBatch, PolicyTerms
from .policy import ratio_weights
from .rollout import Rollout

__all__ = ["StepMetrics"]

# Columns of the table that ranks add up.
_SEQUENCES, _TOKENS, _GAP, _GAP2, _TAUGHT, _REWARD, _REWARDED, _ENDED, _ENTROPY, _DELTA = range(10)


class StepMetrics:
    """Sums over a step's tokens, by domain; everything that is shown is a quotient of them."""

    def __init__(self, domains: Sequence[str]) -> None:
        self.domains = sorted(domains)
        self._table = torch.zeros(len(self.domains), 10, dtype=torch.float64)
        self._loss = torch.zeros(1, dtype=torch.float64)
        self._masked = torch.zeros(1, dtype=torch.float64)
        self._largest = 0.0
        self._mtp = torch.zeros(0, dtype=torch.float64)
        self.mtp_tokens: Sequence[int] = ()
        self.skipped = 0

    def add(
        self,
        group: Sequence[Rollout],
        batch: PolicyBatch,
        terms: PolicyTerms,
        config: LossConfig,
    ) -> None:
        sizes = batch.answers.answers
        domain = torch.tensor([self.domains.index(r.prompt.domain) for r in group])
        token_domain = torch.repeat_interleave(domain, sizes)
        delta = (terms.policy - batch.sampler).abs()
        self._largest = max(self._largest, float(delta.max()))
        self._per(token_domain, _TOKENS, torch.ones_like(delta))
        self._per(token_domain, _ENTROPY, terms.entropy)
        self._per(token_domain, _DELTA, delta)
        if batch.teacher is not None:
            gap = batch.teacher - terms.policy
            self._per(token_domain, _TAUGHT, torch.ones_like(gap))
            self._per(token_domain, _GAP, gap)
            self._per(token_domain, _GAP2, gap**2)
        self._per(domain, _SEQUENCES, torch.ones(len(group)))
        self._per(domain, _ENDED, torch.tensor([float(r.ended) for r in group]))
        rewards = torch.tensor([float("nan") if r.reward is None else r.reward for r in group])
        self._per(domain, _REWARDED, (~rewards.isnan()).float())
        self._per(domain, _REWARD, rewards.nan_to_num(0.0))
        if config.mismatch == "icepop":
            self._masked += (ratio_weights(terms.policy, batch.sampler, config) == 0).sum()
        self._loss += terms.loss.detach().double()
        self._mtp = terms.mtp.double() + (self._mtp if self._mtp.numel() else 0.0)

    def _per(self, index: Tensor, column: int, values: Tensor) -> None:
        self._table[:, column].index_add_(0, index, values.double())

    def sum_ranks(self) -> None:
        for sums in (self._table, self._loss, self._masked):
            summed(sums)
        if self.mtp_tokens:
            self._mtp = (
                self._mtp if self._mtp.numel() else torch.zeros(len(self.mtp_tokens)).double()
            )
            summed(self._mtp)

    @property
    def loss(self) -> float:
        return float(self._loss)

    @property
    def tokens(self) -> int:
        return int(self._table[:, _TOKENS].sum())

    @property
    def masked(self) -> int:
        return int(self._masked)

    def to_dict(self) -> dict[str, Any]:
        total = self._table.sum(0)
        values: dict[str, Any] = {
            "loss": self.loss,
            "tokens": self.tokens,
            "sequences": int(total[_SEQUENCES]),
            "skipped": self.skipped,
            "masked": self.masked / max(self.tokens, 1),
            "mismatch": float(total[_DELTA] / total[_TOKENS]),
            "largest_mismatch": self._largest,
            "entropy": float(total[_ENTROPY] / total[_TOKENS]),
            "domains": {
                name: self._domain(row)
                for name, row in zip(self.domains, self._table, strict=True)
                if row[_SEQUENCES]
            },
        }
        if self.mtp_tokens:
            sums = zip(self._mtp.tolist(), self.mtp_tokens, strict=True)
            values["mtp"] = [s / max(n, 1) for s, n in sums]
        return values

    @staticmethod
    def _domain(row: Tensor) -> dict[str, float]:
        sequences, tokens = float(row[_SEQUENCES]), float(row[_TOKENS])
        shown = {
            "length": tokens / sequences,
            "truncated": 1.0 - float(row[_ENDED]) / sequences,
            "entropy": float(row[_ENTROPY]) / tokens,
        }
        if row[_TAUGHT]:
            gap = float(row[_GAP] / row[_TAUGHT])
            variance = max(float(row[_GAP2] / row[_TAUGHT]) - gap**2, 0.0)
            shown |= {"gap": gap, "gap_std": variance**0.5}
        if row[_REWARDED]:
            shown["reward"] = float(row[_REWARD] / row[_REWARDED])
        return shown
