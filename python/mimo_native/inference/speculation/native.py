"""Rounds in one native call each: drafts, the pass over them, the walks, the commits.

``csrc/speculative`` does what ``MTPDrafter`` and ``Engine`` do in Python, which remain the
definition, with the same drafts and bits. What it needs of a row between rounds it keeps itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ...backends import native
from ...cache import ModelCache
from ...cache.storage import BLOCK
from ...nn import MiMoForCausalLM
from ..request import Request
from .draft import Draft, Round, Walk
from .policy import Plan

__all__ = ["NativeRounds"]

_NOTHING, _PLAIN = Draft(), Plan()


@dataclass
class _Row:
    request: int = -1  # whose tokens the native row holds
    known: int = 0  # how many
    # Hidden states that it has yet to take over: pass, first token in it, count, position.
    pending: list[tuple[Tensor, int, int, int]] = field(default_factory=list)
    waiting: int = 0  # tokens in ``pending``


class NativeRounds:
    """Rounds for the rows of one cache; ``observe`` must be told of tokens committed elsewhere."""

    def __init__(self, model: MiMoForCausalLM, cache: ModelCache, *, drafts: bool = True) -> None:
        self.model, self.cache = model, cache
        self.heads = len(cache.mtp_layers) if drafts else 0
        # What a block may have yet to see: a ring of tokens and a part of one, and a tree's.
        ring = max((c.keys.shape[2] * BLOCK for c in cache.mtp_layers), default=0)
        self._capacity = ring + self.heads + 2 * BLOCK
        width = model.config.hidden_size * cache.dtype.itemsize if self.heads else 0
        self._rows = native("cpu").SpeculativeRows(cache.rows, width, self._capacity)
        self._state = [_Row() for _ in range(cache.rows)]
        self._plan = None  # whose weights the rows have
        self._block_caches = [cache.native_mtp_layers(k) for k in range(self.heads)]

    @classmethod
    def of(
        cls, model: MiMoForCausalLM, cache: ModelCache, *, drafts: bool = True
    ) -> "NativeRounds | None":
        """None where the native call cannot stand in for the modules. drafts: from MTP blocks."""
        plan = model._native.plan(model, cache)
        return cls(model, cache, drafts=drafts) if plan is not None and plan.embeds else None

    def ready(self) -> bool:
        """Whether it still can; to be asked before every round."""
        plan = self.model._native.plan(self.model, self.cache)
        if plan is None or not plan.embeds:
            return False
        if plan is not self._plan:
            self._plan, blocks = plan, plan.blocks if self.heads else ()
            self._rows.attach(plan.decoder, self.cache.native_layers, blocks, self._block_caches)
        return True

    def observe(self, row: int, hidden: Tensor, at: Sequence[int], position: int) -> None:
        """Tokens ``at``, in a row, of a pass with hidden [1, N, D] now stand at ``position`` and
        after in ``row``."""
        if not self.heads or not at:
            return
        state = self._state[row]
        state.pending.append((hidden, at[0], len(at), position))
        state.waiting += len(at)
        while state.waiting - state.pending[0][2] >= self._capacity:
            state.waiting -= state.pending.pop(0)[2]

    def forget(self, row: int) -> None:
        """The row's last tokens are gone from the cache."""
        state = self._state[row]
        state.pending, state.waiting = [], 0
        self._rows.forget(row)

    def run(
        self,
        requests: Sequence[Request],
        plan: Plan = _PLAIN,
        extra: Sequence[Draft] | None = None,
    ) -> Round:
        """One round, by row, of requests with all tokens fed but the last. extra: drafts beside
        those of the plan."""
        if extra is None:
            rows = [(r.row, r.room, (), ()) for r in requests]
        else:
            rows = [
                (r.row, r.room, draft.tokens, draft.parents)
                for r, draft in zip(requests, extra, strict=True)
            ]
        for request in requests:
            self._sync(request)
        walks, drafting, verifying, steps, quiet = self._rows.round(rows, plan.native)
        self.cache.drop_step()
        for request, (tokens, *_) in zip(requests, walks, strict=True):
            self._state[request.row].known += len(tokens)
        return Round(
            (),
            [
                Walk(Draft(nodes, parents, *below) if nodes else _NOTHING, path, tokens, logprobs)
                for tokens, logprobs, path, nodes, parents, _, *below in walks
            ],
            [walk[5] for walk in walks],
            drafting,
            verifying,
            steps,
            quiet,
        )

    def _sync(self, request: Request) -> None:
        """Tell the native row of tokens and hidden states from elsewhere."""
        state = self._state[request.row]
        if state.request != request.index:
            s = request.sampling
            self._rows.open(
                request.row,
                request.tokens,
                s.seed,
                s.temperature,
                s.top_k,
                s.top_p,
                s.min_p,
                s.repetition_penalty,
                s.presence_penalty,
                s.frequency_penalty,
                len(request.prompt),
            )
            state.request, state.known = request.index, len(request.tokens)
        elif state.known != len(request.tokens):
            self._rows.extend(request.row, request.tokens[state.known :])
            state.known = len(request.tokens)
        if state.pending:
            for hidden, start, count, position in state.pending:
                self._rows.observe(request.row, hidden, start, count, position)
            state.pending, state.waiting = [], 0
