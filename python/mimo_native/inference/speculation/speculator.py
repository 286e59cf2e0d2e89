"""The engine's side of speculation: which drafts a round verifies, and what it learns from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from ...cache import ModelCache
from ...errors import ShapeError
from ...nn import MiMoForCausalLM
from ..request import Request
from .draft import MOST_NODES, Draft, TreeShape, Walk, chain, merge
from .mtp import MTPDrafter
from .native import NativeRounds
from .ngram import NGrams
from .policy import PLAIN, Policy

__all__ = ["Mode", "Round", "Speculator"]

Mode = Literal["chain", "tree", "auto"]

# What a round may draft: a tree from the MTP blocks and so many tokens of copied text.
_SHAPES: dict[str, tuple[TreeShape | None, int]] = {
    PLAIN: (None, 0),
    "chain": (TreeShape(), 0),
    "tree": (TreeShape(width=4, beam=3, budget=12), 8),
    "tree8": (TreeShape(width=3, beam=2, budget=8), 0),
    "tree16": (TreeShape(width=4, beam=4, budget=16), 0),
    "copy8": (None, 8),
    "copy24": (None, 24),
}
_AUTO = ("copy8", "copy24", "chain", "tree8", "tree16")


@dataclass
class Round:
    """The drafts of one round, in the order of its requests, none at all in a plain round; or the
    walks over them, where they have been verified and committed already. Times in seconds."""

    arm: str
    drafts: Sequence[Draft] = ()
    walks: Sequence[Walk] = ()
    draft_time: float = 0.0
    verify_time: float = 0.0


_RESTING = "resting"  # plain, and not worth a look

# What is worth its time depends on the model, and outlives an engine.
_policies: WeakKeyDictionary[MiMoForCausalLM, dict[int, Policy]] = WeakKeyDictionary()


class Speculator:
    """Drafts for the rows of ``cache`` by ``mode``; "auto" falls back to plain decoding.

    native: rounds in one native call, where the model can be served by it.
    """

    def __init__(
        self, model: MiMoForCausalLM, cache: ModelCache, mode: Mode, *, native: bool = True
    ) -> None:
        if mode not in ("chain", "tree", "auto"):
            raise ShapeError(
                "Engine", "speculative", expected='None, "chain", "tree" or "auto"', got=repr(mode)
            )
        self.mode = mode
        self.heads = len(model.model.mtp.layers)
        self.native: NativeRounds | None = None
        self.drafter: MTPDrafter | None = None
        if native and NativeRounds.serve(model, cache):
            self.native = NativeRounds(model, cache)
        elif self.heads:
            self.drafter = MTPDrafter(model, cache)
        self.policies = _policies.setdefault(model, {})
        self._ngrams: dict[int, NGrams] = {}

    def observe(self, row: int, hidden: Tensor, at: Sequence[int], position: int) -> None:
        """hidden [1, N, D] of a pass, of which the tokens ``at`` are now committed to ``row`` at
        ``position`` and after."""
        if self.native is not None:
            self.native.observe(row, hidden, at, position)
        elif self.drafter is not None:
            self.drafter.observe(row, hidden, at)

    def forget(self, row: int) -> None:
        """The row's newest tokens are gone from the cache."""
        if self.native is not None:
            self.native.forget(row)
        elif self.drafter is not None:
            self.drafter.forget(row)

    def propose(self, requests: Sequence[Request]) -> Round:
        """Drafts for requests that have fed all but their last token."""
        if self.native is not None and not self.native.ready():
            return Round(PLAIN)
        # The last token of a request is never fed, so none may be drafted in its place.
        depths = [r.sampling.max_tokens - len(r.output) - 1 for r in requests]
        copies: list[list[int]] | None = None
        if self.mode != "auto":
            arm = self.mode
        elif self._policy(requests).rest():
            arm = _RESTING
        else:
            copies = self._copies(requests, depths, 24)
            available = [a for a in _AUTO if _SHAPES[a][0] is not None and self.heads]
            if any(copies):
                available += [a for a in _AUTO if _SHAPES[a][0] is None]
            arm = self._policy(requests).choose(available)
        shape, copied = _SHAPES[PLAIN if arm == _RESTING else arm]
        if arm == "chain" and not self.heads:
            copied = 8
        extra = []
        if copied:
            copies = copies or self._copies(requests, depths, copied)
            extra = [chain(tokens[:copied]) for tokens in copies]
        if self.native is not None:
            return Round(arm, (), *self.native.run(requests, depths, shape, extra))
        drafts = [Draft()] * len(requests)
        if shape is not None and self.drafter is not None:
            drafts = self.drafter.draft(requests, depths, shape)
        if extra:
            drafts = [merge(*both, MOST_NODES - 1) for both in zip(drafts, extra, strict=True)]
        return Round(arm if any(drafts) else PLAIN, drafts)

    def record(self, arm: str, requests: Sequence[Request], tokens: int, seconds: float) -> None:
        """A round's tokens over all requests, and its time."""
        if arm != _RESTING:
            self._policy(requests).record(arm, tokens / len(requests), seconds)

    def finished(self, request: Request) -> None:
        """Let go of what was kept for a request."""
        self._ngrams.pop(request.index, None)

    def _copies(
        self, requests: Sequence[Request], depths: Sequence[int], length: int
    ) -> list[list[int]]:
        lengths = [min(length, depth) for depth in depths]
        if self.native is not None:
            return self.native.copies(requests, lengths)
        return [
            self._ngrams.setdefault(r.index, NGrams()).look_up(r.tokens, length)
            for r, length in zip(requests, lengths, strict=True)
        ]

    def _policy(self, requests: Sequence[Request]) -> Policy:
        return self.policies.setdefault(len(requests), Policy())
