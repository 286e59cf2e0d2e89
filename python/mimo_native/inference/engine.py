"""Continuous batching: requests join and leave between passes; prompts are fed in chunks.

One step is one pass of the model over whatever every row has to feed, then one sampled token for
each row whose tokens are all fed; with speculation, a pass over a draft tree per row, then the
tokens that its walk draws. Because the kernels give a token the same bits in any batch, chunk and
tree, a request's output depends neither on its company nor on the drafts.
"""

import itertools
import time
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..cache import KvFormat
from ..errors import ShapeError
from ..nn import MiMoForCausalLM, Output
from .request import FinishReason, Piece, Request, Stats
from .sampling import PENALTIES, Sampling
from .speculation import Mode, NativeRounds, Round, Speculator, Walk
from .stop import StopFilter

__all__ = ["Engine"]


class Engine:
    """Generates for up to ``max_batch`` requests at once, each of up to ``max_tokens`` tokens.

    add() queues a request, step() advances all and returns the new pieces, cancel() ends one;
    finished requests are in ``finished`` by index until taken. speculative: None, "chain", "tree"
    or "auto"; the output is the same. A prompt that begins like what a free row still holds, the
    next turn of a chat say, is fed from where it differs.
    """

    def __init__(
        self,
        model: MiMoForCausalLM,
        *,
        max_batch: int = 8,
        max_tokens: int = 4096,
        prefill_chunk: int = 512,
        record_routing: bool = False,
        speculative: Mode | None = None,
        kv_format: KvFormat | None = None,
    ) -> None:
        for name, value in (
            ("max_batch", max_batch),
            ("max_tokens", max_tokens),
            ("prefill_chunk", prefill_chunk),
        ):
            if value < 1:
                raise ShapeError("Engine", name, expected=">= 1", got=str(value))
        self.model, self.tokenizer = model, model.tokenizer
        self.max_tokens, self.prefill_chunk = max_tokens, prefill_chunk
        self.record_routing = record_routing and any(model.config.moe_layer_freq)
        self.cache = model.new_cache(max_batch, max_tokens, kv_format=kv_format)
        self.speculator = (
            None
            if speculative is None
            else Speculator(model, self.cache, speculative, native=not self.record_routing)
        )
        self.plain = None
        if self.speculator is None and not self.record_routing:
            self.plain = NativeRounds.of(model, self.cache, drafts=False)
        self.waiting: deque[Request] = deque()
        self.rows: list[Request | None] = [None] * max_batch
        self.finished: dict[int, Request] = {}
        self._held: list[list[int]] = [[] for _ in range(max_batch)]  # what the cache's rows hold
        self._index = itertools.count()
        self._eos = frozenset(model.config.eos_token_ids)
        if self.tokenizer is not None:
            self._eos |= frozenset(self.tokenizer.eos_ids)

    # ------------------------------------------------------------------ requests

    def add(self, prompt: Sequence[int], sampling: Sampling | None = None) -> int:
        """Queue a prompt of token ids; returns the request's index. Raises ShapeError."""
        sampling = (sampling or Sampling()).seeded()
        prompt = [int(token) for token in prompt]
        vocab = self.model.config.vocab_size
        if not prompt or not all(0 <= token < vocab for token in prompt):
            raise ShapeError(
                "Engine.add",
                "prompt",
                expected=f"at least one token id, all in [0, {vocab})",
                got="no tokens" if not prompt else f"[{min(prompt)}, {max(prompt)}]",
            )
        # The last sampled token is never fed.
        if len(prompt) + sampling.max_tokens - 1 > self.max_tokens:
            raise ShapeError(
                "Engine.add",
                "prompt",
                expected=f"prompt + max_tokens - 1 <= {self.max_tokens} tokens of cache",
                got=f"{len(prompt)} + {sampling.max_tokens} - 1",
                remedy="Shorten the prompt, lower max_tokens, or make the engine with more.",
            )
        if sampling.stop and self.tokenizer is None:
            raise ShapeError(
                "Engine.add",
                "sampling.stop",
                expected="a model with a tokenizer",
                got="a model without",
                remedy="Set model.tokenizer; mimo_native.load does.",
            )
        stop = None
        if self.tokenizer is not None:
            stop = StopFilter(self.tokenizer.stream(), sampling.stop)
        request = Request(next(self._index), prompt, sampling, stop, started=time.perf_counter())
        request.stats = Stats(prompt_tokens=len(prompt), seed=sampling.seed or 0)
        self.waiting.append(request)
        return request.index

    def cancel(self, index: int) -> None:
        """End a request now; what it has so far stays in ``finished``. No effect once ended."""
        for request in [*self.waiting, *self.rows]:
            if request is not None and request.index == index:
                self._finish(request, "cancelled")
                return

    @property
    def has_work(self) -> bool:
        return bool(self.waiting) or any(row is not None for row in self.rows)

    # ------------------------------------------------------------------ one step

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One pass over all rows; the pieces of those that got a token."""
        self._admit()
        if not any(self.rows):
            return []
        began = time.perf_counter()
        active = [r for r in self.rows if r is not None]
        decoding = all(r.fed == len(r.tokens) - 1 and r.output for r in active)
        round = self._round(active, began) if decoding else None
        if round is not None and round.walks:
            return self._walked(active, round, began)
        out, cu_seqlens = self._feed()
        ready = [r for r in active if r.fed == len(r.tokens)]
        if not ready:
            return []
        if out.logits is not None:
            logits = out.logits[0]  # one token of every occupied row, all of them ready
        else:
            last = torch.tensor([cu_seqlens[r.row + 1] - 1 for r in ready])
            logits = self.model.logits(out.hidden[0, last])
        ids, logprobs = self._sample(logits, ready)
        now = time.perf_counter()
        if self.speculator is not None and round is not None:
            self.speculator.record(round, active, len(active), now - began)
        return [
            self._take(request, [token], [logprob], began, now)
            for request, token, logprob in zip(ready, ids.tolist(), logprobs.tolist(), strict=True)
        ]

    def _admit(self) -> None:
        while self.waiting and None in self.rows:
            request = self.waiting.popleft()
            free = [row for row, occupant in enumerate(self.rows) if occupant is None]
            row = max(free, key=lambda row: _common(self._held[row], request.prompt))
            request.row = row
            request.fed = request.stats.reused_tokens = self._reuse(row, request.prompt)
            self.rows[row] = request

    def _reuse(self, row: int, prompt: list[int]) -> int:
        """Keep what ``row`` holds of the prompt, its last token apart; how many tokens that is."""
        held, heads = self._held[row], 0 if self.speculator is None else self.speculator.heads
        common = min(_common(held, prompt), len(prompt) - 1)
        if self.record_routing:
            common = 0  # its experts are not on record
        if common < len(held):
            # The MTP blocks saw tokens beyond the common ones, and need hidden states before them.
            lengths = [int(self.cache.mtp_lengths(k)[row]) for k in range(heads)]
            common = max(0, min([common - heads, *lengths]))
            if self.speculator is not None:
                self.speculator.forget(row)
            try:
                self.cache.truncate(row, common)
            except ShapeError:  # a ring has lost what the next token would see
                common = 0
                self.cache.reset(row)
        self._held[row] = held[:common]
        return common

    def _feed(self) -> tuple[Output, list[int]]:
        """Run the next chunk of every row; the pass's output and the rows' bounds in it.

        With logits where every row feeds its last token; else only some tokens' are needed.
        """
        budget = self.prefill_chunk
        ids: list[int] = []
        cu_seqlens = [0]
        chunks: list[tuple[Request, int]] = []
        decoding = True
        for request in self.rows:
            if request is not None:
                pending = request.tokens[request.fed :]
                # A decoding row always goes along; prompts share what is left of the chunk.
                count = len(pending) if len(pending) == 1 else min(len(pending), budget)
                budget = max(budget - count, 0)
                decoding = decoding and len(pending) == 1
                ids += pending[:count]
                chunks.append((request, count))
            cu_seqlens.append(len(ids))
        out = self.model(
            torch.tensor([ids], device=self.model.device),
            cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32),
            cache=self.cache,
            logits="all" if decoding else "none",
        )
        for request, count in chunks:
            start = cu_seqlens[request.row]
            self._fed(request, ids[start : start + count], out, range(start, start + count))
        return out, cu_seqlens

    def _fed(self, request: Request, ids: list[int], out: Output, at: range | list[int]) -> None:
        """Note tokens that have entered the cache; ``at``: where they are in the pass."""
        request.fed += len(ids)
        self._held[request.row] += ids
        if self.speculator is not None:
            self.speculator.observe(request.row, out.hidden, at, request.fed - len(ids))
        if self.record_routing and ids:
            request.routing.append(out.routing[:, 0, list(at)])

    def _round(self, requests: list[Request], began: float) -> Round | None:
        """A round of drafts, or a plain one in one call; without walks it is yet to be run."""
        if self.speculator is not None:
            round = self.speculator.propose(requests)
            if round.walks or not any(round.drafts):
                return round
            return self._verify(requests, round, began)
        if self.plain is None or not self.plain.ready():
            return None
        return self.plain.run(requests)

    def _verify(self, requests: list[Request], round: Round, began: float) -> Round:
        """One pass over a tree per request, and the walks down these trees."""
        drafted = time.perf_counter()
        trees: dict[int, tuple[Tensor, Tensor]] = {}
        ids, masks, cu_seqlens = [], [], [0]
        for request, draft in zip(requests, round.drafts, strict=True):
            tokens = [request.tokens[-1], *draft.tokens]
            parents = [-1, *(parent + 1 for parent in draft.parents)]
            tree = torch.tensor([tokens, parents], device=self.model.device)
            trees[request.row] = tree[0], tree[1]
        for row in range(len(self.rows)):
            if row in trees:
                ids.append(trees[row][0])
                masks.append(ops.build_draft_tree(*trees[row]).ancestors)
            cu_seqlens.append(cu_seqlens[-1] + (len(ids[-1]) if row in trees else 0))
        out = self.model(
            torch.cat(ids)[None],
            cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32),
            cache=self.cache,
            ancestors=torch.cat(masks)[None],
            logits="all",
        )
        walks = []
        for request, draft in zip(requests, round.drafts, strict=True):
            start, end = cu_seqlens[request.row], cu_seqlens[request.row + 1]
            path, tokens, logprobs = ops.verify_tree(
                out.logits[0, start:end], *trees[request.row], **_controls(request)
            )
            walks.append(Walk(draft, path.tolist(), tokens.tolist(), logprobs.tolist()))
        nodes = [
            [cu_seqlens[request.row] + node for node in (0, *walk.path)]
            for request, walk in zip(requests, walks, strict=True)
        ]
        self.cache.commit(torch.tensor([node for row in nodes for node in row]))
        for request, walk, at in zip(requests, walks, nodes, strict=True):
            self._fed(request, [request.tokens[-1], *walk.tokens[:-1]], out, at)
        return Round(
            (), walks, round.matched, drafted - began, time.perf_counter() - drafted, round.steps
        )

    def _walked(self, requests: list[Request], round: Round, began: float) -> list[Piece]:
        """Take what a round has drawn and committed."""
        now = time.perf_counter()
        pieces, count = [], 0
        for request, walk in zip(requests, round.walks, strict=True):
            fed = len(request.tokens) + len(walk.tokens) - 1
            if request.fed != fed:  # a native round, which notes hidden states itself
                self._held[request.row] += [request.tokens[-1], *walk.tokens[:-1]]
                request.fed = fed
            if walk.draft:
                _count_depths(request.stats, walk)
            request.stats.draft_time += round.draft_time
            request.stats.verify_time += round.verify_time
            pieces.append(self._take(request, walk.tokens, walk.logprobs, began, now))
            count += len(walk.tokens)
        if self.speculator is not None and not round.quiet:
            self.speculator.record(round, requests, count, time.perf_counter() - began)
        return pieces

    def _sample(self, logits: Tensor, requests: list[Request]) -> tuple[Tensor, Tensor]:
        controls = [r.sampling for r in requests]

        def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            values = [getattr(s, name) for s in controls]
            return torch.tensor(values, dtype=dtype, device=logits.device)

        def unless_off(name: str, off: float, dtype: torch.dtype = torch.float32) -> Tensor | None:
            return None if all(getattr(s, name) == off for s in controls) else column(name, dtype)

        penalties: dict[str, Tensor] = {}
        if any(s.penalised for s in controls):
            longest = max(len(r.tokens) for r in requests)
            history = torch.full((len(requests), longest), -1, dtype=torch.int32)
            for i, request in enumerate(requests):
                history[i, : len(request.tokens)] = torch.tensor(request.tokens)
            penalties = {name: column(name) for name in PENALTIES}
            penalties["history"] = history.to(logits.device)
            penalties["prompt_lens"] = torch.tensor(
                [len(r.prompt) for r in requests], dtype=torch.int32, device=logits.device
            )

        return ops.sample(
            logits,
            seed=column("seed", torch.int64),
            position=torch.tensor([len(r.tokens) for r in requests], device=logits.device),
            temperature=column("temperature"),
            top_k=unless_off("top_k", 0, torch.int32),
            top_p=unless_off("top_p", 1.0),
            min_p=unless_off("min_p", 0.0),
            **penalties,
        )

    def _take(
        self,
        request: Request,
        tokens: list[int],
        logprobs: list[float],
        began: float,
        now: float,
    ) -> Piece:
        """Append sampled tokens one by one until the request ends, if it does."""
        stats = request.stats
        if request.output:
            stats.decode_time += now - began
            stats.decode_passes += 1
        else:
            stats.time_to_first_token = now - request.started
        shown, taken = "", []
        reason: FinishReason | None = None
        for token, logprob in zip(tokens, logprobs, strict=True):
            request.append(token, logprob)
            taken.append(token)
            text, reason = self._read(request, token)
            shown += text
            if reason is not None:
                break
        stats.completion_tokens += len(taken)
        request.text += shown
        if reason is not None:
            self._finish(request, reason)
        return Piece(request.index, taken, shown, reason)

    def _read(self, request: Request, token: int) -> tuple[str, FinishReason | None]:
        """The text that a new token lets show, and whether the request ends with it."""
        ended = token in self._eos and not request.sampling.ignore_eos
        text, stopped = "", False
        if request.stop is not None and not ended:
            text, stopped = request.stop.push(token)
        reason: FinishReason | None = None
        if ended or stopped:
            reason = "stop"
        elif len(request.output) == request.sampling.max_tokens:
            reason = "length"
        if reason is not None and not stopped and request.stop is not None:
            text += request.stop.flush()
        return text, reason

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        if self.speculator is not None:
            self.speculator.finished(request)
        if request.row is not None:
            self.rows[request.row] = None
        else:
            self.waiting.remove(request)
        self.finished[request.index] = request


def _common(held: list[int], prompt: list[int]) -> int:
    """Length of the common beginning."""
    for i, (a, b) in enumerate(zip(held, prompt, strict=False)):
        if a != b:
            return i
    return min(len(held), len(prompt))


def _controls(request: Request) -> dict[str, object]:
    """The request's sampling as ``ops.verify_tree`` takes it."""
    sampling = request.sampling
    controls: dict[str, object] = {
        name: getattr(sampling, name) for name in ("seed", "temperature", "top_k", "top_p", "min_p")
    }
    if sampling.penalised:
        controls |= {name: getattr(sampling, name) for name in PENALTIES}
        controls["history"] = torch.tensor(request.tokens, dtype=torch.int32)
        controls["prompt_len"] = len(request.prompt)
    return controls | {"position": len(request.tokens)}


def _count_depths(stats: Stats, walk: Walk) -> None:
    for counts, reached in ((stats.drafted, walk.draft.deepest), (stats.accepted, len(walk.path))):
        counts += [0] * (walk.draft.deepest - len(counts))
        for depth in range(reached):
            counts[depth] += 1
