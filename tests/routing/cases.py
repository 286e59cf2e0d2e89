"""Problems of route. Every choice is decided: keys are exactly equal or well apart."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..case import Case, normal
from ..tolerance import sum_bound

__all__ = ["BENCHMARKS", "CASES", "RouteCase"]

C = 8.0  # exp, the quotient of the score, the sum of the chosen, the division, the scaling


@dataclass(frozen=True, kw_only=True)
class RouteCase(Case):
    op: ClassVar[str] = "route"
    tokens: int
    experts: int
    top_k: int
    scoring: str = "sigmoid"
    bias: str = "none"  # "normal"; "huge": 100 on the last expert
    normalize: bool = True
    scaling: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    ties: bool = False  # logits from three values: most selections end in a tie
    std: float = 1.0
    replay: bool = False
    return_stats: bool = False

    def make(self, seed: int = 0) -> dict[str, object]:
        args = {
            "logits": torch.empty(0, self.experts),
            "bias": self.make_bias(seed),
            "top_k": self.top_k,
            "scoring": self.scoring,
            "normalize": self.normalize,
            "scaling": self.scaling,
            "n_group": self.n_group,
            "topk_group": self.topk_group,
            "return_stats": self.return_stats,
        }
        logits, attempt = torch.empty(0, self.experts), seed
        while len(logits) < self.tokens:
            attempt += 1000
            fresh = self.make_logits(attempt)
            logits = torch.cat((logits, fresh[self.decided(fresh, args["bias"])]))
        args["logits"] = logits[: self.tokens].contiguous()
        if self.replay:
            gen = torch.Generator().manual_seed(seed)
            order = torch.rand(self.tokens, self.experts, generator=gen)
            args["replay_ids"] = order.argsort(-1)[:, : self.top_k].int()
        return args

    def make_bias(self, seed: int) -> Tensor | None:
        if self.bias == "none":
            return None
        bias = normal(self.experts, seed=seed + 1, dtype=torch.float32, std=0.2)
        if self.ties:
            bias = (bias > 0) * 0.25
        if self.bias == "huge":
            bias[-1] = 100.0
        return bias

    def make_logits(self, seed: int) -> Tensor:
        if not self.ties:
            return normal(self.tokens, self.experts, seed=seed, dtype=torch.float32, std=self.std)
        gen = torch.Generator().manual_seed(seed)
        values = torch.tensor([-1.3, 0.1, 1.9])  # no two sums of their sigmoids are close
        return values[torch.randint(3, (self.tokens, self.experts), generator=gen)]

    def decided(self, logits: Tensor, bias: Tensor | None) -> Tensor:
        """Rows [T] whose order no float32 rounding can change."""
        logits = logits.double()
        keys = logits.sigmoid() if self.scoring == "sigmoid" else logits.softmax(-1)
        keys = keys if bias is None else keys + bias.double()
        apart = _apart(keys.sort(-1, descending=True).values[:, : self.top_k + 1])
        if self.n_group > 1:
            grouped = keys.unflatten(-1, (self.n_group, -1))
            best = grouped.topk(2).values.sum(-1).sort(-1, descending=True)
            apart &= _apart(best.values)
            chosen = best.indices[:, : self.topk_group, None].expand(-1, -1, grouped.shape[-1])
            inside = grouped.gather(1, chosen).flatten(1).sort(-1, descending=True).values
            apart &= _apart(inside[:, : self.top_k + 1])
        return apart

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor | float, ...]:
        depth = 1.0 if self.scoring == "sigmoid" else self.experts
        weights = sum_bound(want[1].abs(), self.top_k + depth, c=C)
        if not self.return_stats:
            return 0.0, weights
        return 0.0, weights, 0.0, sum_bound(want[3], self.tokens + self.experts, c=C)

    @property
    def flops(self) -> int:
        return 4 * self.tokens * self.experts

    @property
    def bytes(self) -> int:
        return 4 * self.tokens * self.experts + 8 * self.tokens * self.top_k


def _apart(descending: Tensor) -> Tensor:
    """Rows whose neighbours are exactly equal or further apart than float32 can confuse."""
    gaps = -descending.diff(dim=-1)
    least = 1e-5 + 1e-6 * descending[:, 1:].abs()
    return ((gaps == 0) | (gaps > least)).all(-1)


CASES = [
    *(
        RouteCase(tokens=n, experts=e, top_k=k)
        for n, e, k in (
            (0, 8, 2), (1, 1, 1), (1, 256, 8), (5, 2, 1), (7, 3, 3), (33, 8, 2), (64, 17, 5),
            (65, 256, 8), (40, 384, 8), (9, 1000, 16), (30, 100, 100), (20, 64, 6),
        )
    ),
    *(
        RouteCase(tokens=40, experts=256, top_k=8, bias=bias, scoring=scoring)
        for bias in ("normal", "huge")
        for scoring in ("sigmoid", "softmax")
    ),
    *(
        RouteCase(tokens=60, experts=e, top_k=k, ties=True, bias=bias)
        for e, k in ((256, 8), (33, 4), (8, 8))
        for bias in ("none", "normal")
    ),
    *(
        RouteCase(
            tokens=50, experts=e, top_k=k, n_group=g, topk_group=kept, bias=bias, scoring=scoring
        )
        for e, k, g, kept in ((64, 6, 8, 3), (256, 8, 8, 4), (12, 3, 2, 1), (30, 5, 3, 3))
        for bias, scoring in (("none", "sigmoid"), ("normal", "sigmoid"), ("none", "softmax"))
    ),
    RouteCase(tokens=50, experts=64, top_k=6, n_group=8, topk_group=3, ties=True),
    RouteCase(tokens=30, experts=64, top_k=6, normalize=False, scaling=2.5),
    RouteCase(tokens=30, experts=64, top_k=6, scoring="softmax", normalize=False),
    RouteCase(tokens=30, experts=64, top_k=6, scoring="softmax", std=8.0),
    RouteCase(tokens=30, experts=64, top_k=6, std=1e-3, bias="normal"),
    RouteCase(tokens=30, experts=64, top_k=6, replay=True, bias="normal", return_stats=True),
    RouteCase(tokens=1, experts=64, top_k=6, replay=True, scoring="softmax"),
    *(
        RouteCase(tokens=n, experts=256, top_k=8, scoring=scoring, return_stats=True)
        for n in (0, 1, 70)
        for scoring in ("sigmoid", "softmax")
    ),
]  # fmt: skip

BENCHMARKS = [
    RouteCase(tokens=n, experts=256, top_k=8, bias="normal") for n in (1, 8, 64, 512, 4096)
]
