"""Problems of the losses over a vocabulary: N rows, D inputs, V ids."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..case import FLOATS, Case, normal
from ..tolerance import UNIT_ROUNDOFF, sum_bound

__all__ = ["BENCHMARKS", "CASES", "CrossEntropyCase", "LogProbCase", "ReverseKLCase", "logit_error"]

C = 2.0  # of a logit, as in the products
# The terms of a sum of exponentials are float32, and so are the results of the reference.
S = 8.0 * UNIT_ROUNDOFF[torch.float32]


def logit_error(hidden: Tensor, weight: Tensor, temperature: float = 1.0) -> Tensor:
    """The largest error of any of a row's logits, [N]."""
    magnitude = hidden.abs() @ weight.abs().T
    return sum_bound(magnitude, hidden.shape[1], c=C).amax(-1) / temperature


@dataclass(frozen=True, kw_only=True)
class _Case(Case):
    n: int
    v: int
    d: int
    std: float = 1.0  # of the logits, about

    def head(self, seed: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        hidden = normal(self.n, d, seed=seed, dtype=dtype)
        weight = normal(self.v, d, seed=seed + 1, dtype=dtype, std=self.std / d**0.5)
        return hidden, weight

    def ids(self, *size: int, seed: int) -> Tensor:
        return torch.randint(self.v, size, generator=torch.Generator().manual_seed(seed))

    @property
    def flops(self) -> int:
        return 2 * self.n * self.v * self.d

    @property
    def bytes(self) -> int:
        return (self.n + self.v) * self.d * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class CrossEntropyCase(_Case):
    op: ClassVar[str] = "linear_cross_entropy"
    reduction: str = "mean"
    ignored: int = 0  # every so-manieth row has no target

    def make(self, seed: int = 0) -> dict[str, object]:
        hidden, weight = self.head(seed, self.d, self.dtype)
        targets = self.ids(self.n, seed=seed)
        if self.ignored:
            targets[:: self.ignored] = -100
        return {
            "hidden": hidden,
            "weight": weight,
            "targets": targets,
            "reduction": self.reduction,
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits = args["hidden"] @ args["weight"].T
        each = 2 * logit_error(args["hidden"], args["weight"])
        each = each + S * (1 + logits.abs().amax(-1) + logits.logsumexp(-1).abs())
        if self.reduction == "none":
            return (each,)
        valid = args["targets"] != -100
        total = (each * valid).sum() + S * logits.shape[0] ** 0.5 * want[0].abs()
        return (total / (valid.sum().clamp(min=1) if self.reduction == "mean" else 1),)


@dataclass(frozen=True, kw_only=True)
class LogProbCase(_Case):
    op: ClassVar[str] = "linear_logprob"
    k: int = 0  # ids per row; 0: one, without a dimension of its own
    temperature: float = 1.0

    def make(self, seed: int = 0) -> dict[str, object]:
        hidden, weight = self.head(seed, self.d, self.dtype)
        ids = self.ids(*([self.n, self.k] if self.k else [self.n]), seed=seed)
        return {
            "hidden": hidden,
            "weight": weight,
            "ids": ids,
            "temperature": self.temperature,
            "return_entropy": True,
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args["hidden"] @ args["weight"].T / self.temperature
        error = logit_error(args["hidden"], args["weight"], self.temperature)
        sizes = S * (1 + z.abs().amax(-1) + z.logsumexp(-1).abs())
        logprob = 2 * error + sizes
        entropy = 2 * error * (want[1] + 1) + sizes
        return (logprob[:, None].expand_as(want[0]) if self.k else logprob), entropy


@dataclass(frozen=True, kw_only=True)
class ReverseKLCase(_Case):
    op: ClassVar[str] = "linear_reverse_kl"
    teacher_d: int
    teacher_dtype: torch.dtype = torch.float32
    temperature: float = 1.0
    top_k: int | None = None
    correction: str = "mass"

    def make(self, seed: int = 0) -> dict[str, object]:
        hidden, weight = self.head(seed, self.d, self.dtype)
        teacher_hidden, teacher_weight = self.head(seed + 2, self.teacher_d, self.teacher_dtype)
        return {
            "hidden": hidden,
            "weight": weight,
            "teacher_hidden": teacher_hidden,
            "teacher_weight": teacher_weight,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "correction": self.correction,
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args["hidden"] @ args["weight"].T / self.temperature
        t = args["teacher_hidden"] @ args["teacher_weight"].T / self.temperature
        error = logit_error(args["hidden"], args["weight"], self.temperature)
        error_t = logit_error(args["teacher_hidden"], args["teacher_weight"], self.temperature)
        gap = z.log_softmax(-1) - t.log_softmax(-1)
        spread = (z.softmax(-1) * gap.abs()).sum(-1)
        sizes = S * (1 + spread + z.abs().amax(-1) + t.abs().amax(-1) + z.logsumexp(-1).abs())
        if self.top_k is None:
            return (2 * error * (1 + spread) + 2 * error_t + sizes,)
        return (self.top_k_bound(z, t, 2 * error + sizes, 2 * error_t + sizes),)

    def top_k_bound(self, z: Tensor, t: Tensor, error: Tensor, error_t: Tensor) -> Tensor:
        """``error`` and ``error_t`` are those of a log-probability, [N]."""
        ids = t.topk(self.top_k, dim=-1).indices
        logp, logt = (x.log_softmax(-1).gather(-1, ids) for x in (z, t))
        p, q, gap = logp.exp(), logt.exp(), (logp - logt).abs()
        bound = (p * gap).sum(-1) * error + S * (p * gap + p + q).sum(-1)
        if self.correction == "mass":
            return bound + (p - q).abs().sum(-1) * error_t
        # The rest is 1 less the sum of k probabilities.
        rest, rest_q = 1 - p.sum(-1), 1 - q.sum(-1)
        factor = 1 + (rest / rest_q).log().abs()
        bound = bound + p.sum(-1) * (error + error_t) + S * rest * factor
        bound = bound + factor * (S + p.sum(-1) * error)
        return bound + rest / rest_q * (S + q.sum(-1) * error_t)

    @property
    def flops(self) -> int:
        return 2 * self.n * self.v * (self.d + self.teacher_d)


_SIZES = [(1, 1, 1), (1, 2, 3), (3, 33, 5), (17, 1024, 40), (5, 1025, 64), (130, 700, 33),
          (2, 5000, 70)]  # fmt: skip

CASES = [
    *(CrossEntropyCase(n=n, v=v, d=d, dtype=t) for n, v, d in _SIZES for t in FLOATS),
    *(CrossEntropyCase(n=20, v=90, d=40, reduction=r, ignored=i, dtype=t)
      for r in ("mean", "sum", "none") for i in (0, 1, 3) for t in FLOATS),
    CrossEntropyCase(n=9, v=2500, d=64, std=30.0),
    CrossEntropyCase(n=0, v=90, d=40),
    *(LogProbCase(n=n, v=v, d=d, dtype=t) for n, v, d in _SIZES for t in FLOATS),
    *(LogProbCase(n=7, v=2100, d=40, k=k, temperature=temperature)
      for k in (1, 5) for temperature in (0.6, 1.0, 2.0)),
    LogProbCase(n=7, v=2100, d=40, std=30.0),
    *(ReverseKLCase(n=n, v=v, d=d, teacher_d=d + 3, dtype=t, teacher_dtype=other)
      for n, v, d in _SIZES for t in FLOATS for other in FLOATS),
    *(ReverseKLCase(n=11, v=2100, d=40, teacher_d=24, temperature=temperature, top_k=k,
                    correction=correction)
      for temperature in (0.6, 1.0) for k in (None, 1, 64) for correction in ("mass", "tail")
      if k is not None or correction == "mass"),
]  # fmt: skip

BENCHMARKS = [
    CrossEntropyCase(n=n, v=152_576, d=d, dtype=t)
    for n, d in ((256, 1024), (1024, 1024))
    for t in FLOATS
]
