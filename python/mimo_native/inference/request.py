"""A request on its way through the engine, and what comes back."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .sampling import Sampling
from .stop import StopFilter

__all__ = ["Completion", "FinishReason", "Piece", "Request", "Stats"]

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass
class Stats:
    """Times in seconds. Prefill covers the prompt but for its first ``reused_tokens``, which the
    cache held already; decode covers every token after the first.

    accept_length: tokens per pass of the model while decoding; 1 without speculation. accepted[d]
    and drafted[d]: passes in which a draft of depth d + 1 was accepted, and was there; draft_time
    and verify_time are shares of decode_time.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    seed: int = 0
    time_to_first_token: float = 0.0
    decode_time: float = 0.0
    decode_passes: int = 0
    draft_time: float = 0.0
    verify_time: float = 0.0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    @property
    def prefill_tokens_per_second(self) -> float:
        fed = self.prompt_tokens - self.reused_tokens
        return fed / self.time_to_first_token if self.time_to_first_token else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        return (self.completion_tokens - 1) / self.decode_time if self.decode_time else 0.0

    @property
    def accept_length(self) -> float:
        return (self.completion_tokens - 1) / self.decode_passes if self.decode_passes else 1.0


@dataclass
class Completion:
    """A finished request.

    token_ids exclude nothing that was sampled (an end token is the last one); text ends before a
    stop string. logprobs: per token, at the request's temperature over the full vocabulary before
    penalties and truncation. routing [moe layers, tokens fed, K]: the experts of every prompt and
    completion token but the last, which is never fed.
    """

    token_ids: list[int]
    text: str | None
    finish_reason: FinishReason
    logprobs: list[float] | None
    routing: Tensor | None
    stats: Stats


@dataclass
class Piece:
    """What one engine step adds to one request."""

    index: int
    token_ids: list[int]
    text: str
    finish_reason: FinishReason | None


@dataclass
class Request:
    """State of one request; the engine owns it."""

    index: int
    prompt: list[int]
    sampling: Sampling  # seeded
    stop: StopFilter | None
    started: float
    row: int | None = None
    fed: int = 0  # tokens of prompt + output that the cache holds
    output: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routing: list[Tensor] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    stats: Stats = field(default_factory=Stats)
    tokens: list[int] = field(init=False)  # prompt + output

    def __post_init__(self) -> None:
        self.tokens = [*self.prompt, *self.output]

    @property
    def room(self) -> int:
        """Depth of the deepest draft that may be used: the last token is never fed, so none may be
        drafted in its place."""
        return self.sampling.max_tokens - len(self.output) - 1

    def append(self, token: int, logprob: float) -> None:
        """Take a sampled token."""
        self.output.append(token)
        self.tokens.append(token)
        self.logprobs.append(logprob)

    def completion(self) -> Completion:
        assert self.finish_reason is not None
        return Completion(
            token_ids=self.output,
            text=self.text if self.stop is not None else None,
            finish_reason=self.finish_reason,
            logprobs=self.logprobs if self.sampling.logprobs else None,
            routing=torch.cat(self.routing, dim=1) if self.routing else None,
            stats=self.stats,
        )
