"""The engine's side of speculation: which drafts a round verifies, and what it learns from it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from ...cache import ModelCache
from ...errors import ShapeError
from ...nn import MiMoForCausalLM
from ..request import Request
from .draft import Draft, chain, merge
from .mtp import MTPDrafter, TreeShape
from .ngram import NGrams
from .policy import PLAIN, Policy

__all__ = ["Mode", "Round", "Speculator"]

Mode = Literal["chain", "tree", "auto"]

# What a round may draft: a tree from the MTP blocks and so many tokens of copied text.
_SHAPES: dict[str, tuple[TreeShape | None, int]] = {
    "chain": (TreeShape(), 0),
    "tree": (TreeShape(width=4, beam=3, budget=12), 8),
    "tree8": (TreeShape(width=3, beam=2, budget=8), 0),
    "tree16": (TreeShape(width=4, beam=4, budget=16), 0),
    "copy8": (None, 8),
    "copy24": (None, 24),
}
_AUTO = ("copy8", "copy24", "chain", "tree8", "tree16")


@dataclass(frozen=True)
class Round:
    """The drafts of one round, in the order of its requests; none at all in a plain round."""

    arm: str
    drafts: list[Draft]


_RESTING = Round("resting", [])  # plain, and not worth a look

# What is worth its time depends on the model, and outlives an engine.
_policies: WeakKeyDictionary[MiMoForCausalLM, dict[int, Policy]] = WeakKeyDictionary()


class Speculator:
    """Drafts for the rows of ``cache`` by ``mode``; "auto" falls back to plain decoding."""

    def __init__(self, model: MiMoForCausalLM, cache: ModelCache, mode: Mode) -> None:
        if mode not in ("chain", "tree", "auto"):
            raise ShapeError(
                "Engine", "speculative", expected='None, "chain", "tree" or "auto"', got=repr(mode)
            )
        self.mode = mode
        self.drafter = MTPDrafter(model, cache) if len(model.model.mtp.layers) else None
        self.policies = _policies.setdefault(model, {})
        self._ngrams: dict[int, NGrams] = {}

    def observe(self, row: int, hidden: Tensor, at: Iterable[int]) -> None:
        """hidden [1, N, D] of a pass, of which the tokens ``at`` are now committed to ``row``."""
        if self.drafter is not None:
            self.drafter.observe(row, hidden, at)

    def forget(self, row: int) -> None:
        if self.drafter is not None:
            self.drafter.forget(row)

    @property
    def heads(self) -> int:
        return self.drafter.heads if self.drafter is not None else 0

    def propose(self, requests: Sequence[Request]) -> Round:
        """Drafts for requests that have fed all but their last token."""
        if self.mode == "auto" and self._policy(requests).rest():
            return _RESTING
        # The last token of a request is never fed, so none may be drafted in its place.
        depths = [r.sampling.max_tokens - len(r.output) - 1 for r in requests]
        copies: list[list[int]] | None = None
        if self.mode != "auto":
            arm = self.mode
        else:
            copies = self._copies(requests, depths, 24)
            available = [a for a in _AUTO if _SHAPES[a][0] is not None and self.drafter]
            if any(copies):
                available += [a for a in _AUTO if _SHAPES[a][0] is None]
            arm = self._policy(requests).choose(available)
            if arm == PLAIN:
                return Round(PLAIN, [])
        shape, copied = _SHAPES[arm]
        if self.drafter is None and arm == "chain":
            copied = 8
        drafts = [Draft()] * len(requests)
        if shape is not None and self.drafter is not None:
            drafts = self.drafter.draft(requests, depths, shape)
        if copied:
            copies = copies or self._copies(requests, depths, copied)
            drafts = [
                merge(draft, chain(tokens[:copied]), len(draft) + copied)
                for draft, tokens in zip(drafts, copies, strict=True)
            ]
        return Round(arm if any(drafts) else PLAIN, drafts)

    def record(self, arm: str, requests: Sequence[Request], tokens: int, seconds: float) -> None:
        """A round's tokens over all requests, and its time."""
        if arm == _RESTING.arm:
            return
        self._policy(requests).record(arm, tokens / len(requests), seconds)

    def finished(self, request: Request) -> None:
        """Let go of what was kept for a request."""
        self._ngrams.pop(request.index, None)

    def _copies(
        self, requests: Sequence[Request], depths: Sequence[int], length: int
    ) -> list[list[int]]:
        return [
            self._ngrams.setdefault(r.index, NGrams()).look_up(r.tokens, min(length, depth))
            for r, depth in zip(requests, depths, strict=True)
        ]

    def _policy(self, requests: Sequence[Request]) -> Policy:
        return self.policies.setdefault(len(requests), Policy())
