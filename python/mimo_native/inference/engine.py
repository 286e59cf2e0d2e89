"""Continuous batching: requests join and leave between passes; prompts are fed in chunks.

One step is one pass of the model over whatever every row has to feed, then one sampled token for
each row whose tokens are all fed. Because the kernels give a token the same bits in any batch and
chunk, a request's output does not depend on its company.
"""

import itertools
import time
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..errors import ShapeError
from ..nn import MiMoForCausalLM
from .request import FinishReason, Piece, Request, Stats
from .sampling import PENALTIES, Sampling
from .stop import StopFilter

__all__ = ["Engine"]


class Engine:
    """Generates for up to ``max_batch`` requests at once, each of up to ``max_tokens`` tokens.

    add() queues a request, step() advances all and returns the new pieces, cancel() ends one;
    finished requests are in ``finished`` by index until taken.
    """

    def __init__(
        self,
        model: MiMoForCausalLM,
        *,
        max_batch: int = 8,
        max_tokens: int = 4096,
        prefill_chunk: int = 512,
        record_routing: bool = False,
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
        self.cache = model.new_cache(max_batch, max_tokens)
        self.waiting: deque[Request] = deque()
        self.rows: list[Request | None] = [None] * max_batch
        self.finished: dict[int, Request] = {}
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
        hidden, cu_seqlens = self._feed()
        ready = [r for r in self.rows if r is not None and r.fed == len(r.tokens)]
        if not ready:
            return []
        last = torch.tensor([cu_seqlens[r.row + 1] - 1 for r in ready])
        ids, logprobs = self._sample(self.model.logits(hidden[last]), ready)
        now = time.perf_counter()
        return [
            self._take(request, token, logprob, began, now)
            for request, token, logprob in zip(ready, ids.tolist(), logprobs.tolist(), strict=True)
        ]

    def _admit(self) -> None:
        for row, occupant in enumerate(self.rows):
            if occupant is None and self.waiting:
                request = self.waiting.popleft()
                request.row = row
                self.cache.reset(row)
                self.rows[row] = request

    def _feed(self) -> tuple[Tensor, list[int]]:
        """Run the next chunk of every row; hidden [N, D] and the rows' bounds in it."""
        budget = self.prefill_chunk
        ids: list[int] = []
        cu_seqlens = [0]
        chunks: list[tuple[Request, int]] = []
        for request in self.rows:
            if request is not None:
                pending = request.tokens[request.fed :]
                # A decoding row always goes along; prompts share what is left of the chunk.
                count = len(pending) if len(pending) == 1 else min(len(pending), budget)
                budget = max(budget - count, 0)
                ids += pending[:count]
                chunks.append((request, count))
            cu_seqlens.append(len(ids))
        out = self.model(
            torch.tensor([ids]),
            cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32),
            cache=self.cache,
            logits="none",
        )
        for request, count in chunks:
            request.fed += count
            if self.record_routing and count:
                start = cu_seqlens[request.row]
                request.routing.append(out.routing[:, 0, start : start + count])
        return out.hidden[0], cu_seqlens

    def _sample(self, logits: Tensor, requests: list[Request]) -> tuple[Tensor, Tensor]:
        controls = [r.sampling for r in requests]

        def column(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor([getattr(s, name) for s in controls], dtype=dtype)

        penalties: dict[str, Tensor] = {}
        if any(s.penalised for s in controls):
            longest = max(len(r.tokens) for r in requests)
            history = torch.full((len(requests), longest), -1, dtype=torch.int32)
            for i, request in enumerate(requests):
                history[i, : len(request.tokens)] = torch.tensor(request.tokens)
            penalties = {name: column(name) for name in PENALTIES}
            penalties["history"] = history
            penalties["prompt_lens"] = torch.tensor(
                [len(r.prompt) for r in requests], dtype=torch.int32
            )

        return ops.sample(
            logits,
            seed=column("seed", torch.int64),
            position=torch.tensor([len(r.tokens) for r in requests]),
            temperature=column("temperature"),
            top_k=column("top_k", torch.int32),
            top_p=column("top_p"),
            min_p=column("min_p"),
            **penalties,
        )

    def _take(
        self, request: Request, token: int, logprob: float, began: float, now: float
    ) -> Piece:
        """Append one sampled token and decide whether the request ends with it."""
        stats = request.stats
        request.output.append(token)
        request.logprobs.append(logprob)
        stats.completion_tokens += 1
        if stats.completion_tokens == 1:
            stats.time_to_first_token = now - request.started
        else:
            stats.decode_time += now - began
            stats.decode_passes += 1
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
        request.text += text
        if reason is not None:
            self._finish(request, reason)
        return Piece(request.index, [token], text, reason)

    def _finish(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        if request.row is not None:
            self.rows[request.row] = None
        else:
            self.waiting.remove(request)
        self.finished[request.index] = request
