"""The engine's side of speculation: which drafts a round verifies, and what it learns from it."""

from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from ...cache import ModelCache
from ...errors import ShapeError
from ...nn import MiMoForCausalLM
from ..request import Request
from .draft import MOST_NODES, Draft, Round, TreeShape, chain, extend, merge
from .mtp import MTPDrafter
from .native import NativeRounds
from .ngram import NGrams
from .policy import LONGEST_MATCH, Plan, Policy

__all__ = ["Mode", "Speculator"]

Mode = Literal["chain", "tree", "auto"]

# What every round drafts.
_COPY_8 = (0, 0, *(8,) * (LONGEST_MATCH - 1))
_PLANS = {
    "chain": Plan(TreeShape()),
    "tree": Plan(TreeShape(width=4, beam=3, budget=12), _COPY_8, beside=True),
}

# What is worth its time depends on the model, and outlives an engine.
_policies: WeakKeyDictionary[MiMoForCausalLM, dict[int, Policy]] = WeakKeyDictionary()


# One of so many rounds without drafts is told to the policy, by how hard the text is.
_TOLD_OF = (16, 32, 128)


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
        self.drafter: MTPDrafter | None = None
        self.native = NativeRounds.of(model, cache) if native else None
        if self.native is None and self.heads:
            self.drafter = MTPDrafter(model, cache)
        self.plan = _PLANS.get(mode)
        if self.plan is not None and not self.heads:
            self.plan = Plan(None, _COPY_8)
        self.policies = _policies.setdefault(model, {})
        # Per request what was looked up for copying, what had matched, and after how many tokens.
        self._guesses: dict[int, tuple[list[int], int, int]] = {}
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
            return Round()
        plan = self.plan or self._policy(requests).plan
        if self.native is not None:
            return self.native.run(requests, plan)
        # The last token of a request is never fed, so none may be drafted in its place.
        depths = [r.room for r in requests]
        copies = self._copies(requests, depths, plan)
        drafts = [Draft()] * len(requests)
        if plan.blocks is not None and self.drafter is not None:
            asked = depths
            if not plan.beside:
                asked = [0 if m else d for d, (_, m) in zip(depths, copies, strict=True)]
            drafts = self.drafter.draft(requests, asked, plan.blocks)
            if any(plan.extended):
                drafts = [
                    self._extended(r, d, depth, plan)
                    for r, d, depth in zip(requests, drafts, depths, strict=True)
                ]
        drafts = [
            merge(draft, chain(tokens), MOST_NODES - 1)
            for draft, (tokens, _) in zip(drafts, copies, strict=True)
        ]
        steps = self.heads if plan.blocks is not None and self.drafter is not None else 0
        return Round(drafts, matched=[matched for _, matched in copies], steps=steps)

    def record(
        self, round: Round, requests: Sequence[Request], tokens: int, seconds: float
    ) -> None:
        """A round's tokens over all requests, and its time."""
        if self.mode != "auto":
            return
        policy = self._policy(requests)
        if not (round.steps or any(round.matched)):
            # It must not cost what it may save: of many such rounds, one is told.
            policy.costs.record(len(requests), round.verify_time, 0, 0.0)
            policy.record_plain(seconds, max(policy.text.idle, 1))
            policy.text.tell(_TOLD_OF[policy.level] if policy.plain.rounds > 1 else 1)
            return
        nodes = 0
        for walk in round.walks:
            nodes += 1 + len(walk.draft)
            if walk.draft.copied:
                policy.record_tail(walk.draft, len(walk.path))
            if self.native is None:
                policy.text.draw(walk.logprobs)
        steps = round.steps if policy.warm else 0
        nodes = nodes or len(requests)
        policy.costs.record(nodes, round.verify_time, steps, round.draft_time)
        policy.record(tokens, seconds, steps=round.steps, nodes=nodes)

    def finished(self, request: Request) -> None:
        """Let go of what was kept for a request."""
        self._ngrams.pop(request.index, None)
        self._guesses.pop(request.index, None)

    def _copies(
        self, requests: Sequence[Request], depths: Sequence[int], plan: Plan
    ) -> list[tuple[list[int], int]]:
        """Per request the tokens to copy, and how many before them matched."""
        found = []
        for request, depth in zip(requests, depths, strict=True):
            tokens, matched = [], 0
            if plan.copied or plan.record is not None:
                table = self._ngrams.setdefault(request.index, NGrams())
                tokens, matched = table.look_up(request.tokens, MOST_NODES - 1)
            if plan.record is not None:
                self._note(request, tokens, matched, plan.record)
            tokens = tokens[: min(depth, plan.copied[matched] if plan.copied else 0)]
            found.append((tokens, matched if tokens else 0))
        return found

    def _note(self, request: Request, tokens: list[int], matched: int, record: Any) -> None:
        """Compare what the last round would have copied with what has been drawn since."""
        before, size, known = self._guesses.get(request.index, ([], 0, 0))
        if size:
            record.note(size, before, request.tokens[known:])
        self._guesses[request.index] = tokens, matched, len(request.tokens)

    def _extended(self, request: Request, draft: Draft, depth: int, plan: Plan) -> Draft:
        """With copied text below the deepest path."""
        room = min(depth - draft.deepest, MOST_NODES - 1 - len(draft), max(plan.extended))
        if not draft.tokens or room <= 0:
            return draft
        path = draft.paths()[draft.depths.index(draft.deepest)]
        table = self._ngrams.setdefault(request.index, NGrams())
        tokens, size = table.look_up(request.tokens, room, path)
        return extend(draft, tokens[: plan.extended[size]], size)

    def _policy(self, requests: Sequence[Request]) -> Policy:
        policy = self.policies.get(len(requests))
        if policy is None:
            policy = self.policies[len(requests)] = Policy(self.heads > 0, len(requests))
        return policy
