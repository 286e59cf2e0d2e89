"""Prompts of a run by domain, and which of them a step trains on: a function of the step alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CheckpointError, ShapeError
from ..text import Tokenizer
from ..training.data.order import order
from .config import Domain

__all__ = ["Prompt", "PromptStream", "read_prompts"]


@dataclass(frozen=True)
class Prompt:
    """ids of the prompt and of the answer (without an end token; None where there is none).

    text and answer are what the file says: text, or ids where it gives ids.
    """

    domain: str
    index: int
    ids: tuple[int, ...]
    answer_ids: tuple[int, ...] | None
    text: str | Sequence[int]
    answer: str | Sequence[int] | None


def read_prompts(
    domain: str, path: str | Path, tokenizer: Tokenizer | None, vocab_size: int
) -> list[Prompt]:
    """Read a JSONL file of prompts. Raises CheckpointError naming the line and what is wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            str(path), "file", expected="prompts, a JSON object a line", got=str(error)
        ) from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            content = json.loads(line)
            text, answer = content["prompt"], content.get("answer")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CheckpointError(
                where, "prompt", expected='{"prompt": ..., "answer": ...}', got=line[:60]
            ) from None
        ids = _encode(where, text, tokenizer, vocab_size)
        answer_ids = None if answer is None else _encode(where, answer, tokenizer, vocab_size)
        if not ids:
            raise CheckpointError(where, "prompt", expected="at least one token", got="none")
        prompts.append(Prompt(domain, len(prompts), ids, answer_ids, text, answer))
    if not prompts:
        raise CheckpointError(str(path), "prompts", expected="at least one", got="none")
    return prompts


def _encode(
    where: str, text: object, tokenizer: Tokenizer | None, vocab_size: int
) -> tuple[int, ...]:
    if isinstance(text, str):
        if tokenizer is None:
            raise CheckpointError(
                where,
                "prompt",
                expected="token ids: the model has no tokenizer",
                got="text",
                remedy="Put a tokenizer.json beside the checkpoint.",
            )
        return tuple(tokenizer.encode(text))
    good = isinstance(text, list) and all(isinstance(i, int) and 0 <= i < vocab_size for i in text)
    if not good:
        expected = f"text, or token ids in [0, {vocab_size})"
        raise CheckpointError(where, "prompt", expected=expected, got=str(text)[:60])
    return tuple(text)


class PromptStream:
    """The prompts of every step; each domain runs through its own in a new order per epoch.

    Nothing is consumed: after a restart, step n has the prompts it would have had. Raises
    ShapeError where a step is too small for a domain's share.
    """

    def __init__(
        self,
        prompts: Mapping[str, Sequence[Prompt]],
        domains: Mapping[str, Domain],
        *,
        per_step: int,
        seed: int,
    ) -> None:
        self._prompts, self._seed = dict(prompts), seed
        self._orders: dict[str, tuple[int, np.ndarray]] = {}  # of the epoch that each domain is in
        self.counts = _shares({name: d.weight for name, d in domains.items()}, per_step)

    def step(self, n: int) -> list[Prompt]:
        """The prompts of 0-based step ``n``, domain by domain."""
        return [
            self._nth(place, name, n * count + i)
            for place, (name, count) in enumerate(sorted(self.counts.items()))
            for i in range(count)
        ]

    def _nth(self, place: int, name: str, n: int) -> Prompt:
        prompts = self._prompts[name]
        epoch, at = divmod(n, len(prompts))
        if self._orders.get(name, (-1, None))[0] != epoch:
            self._orders[name] = epoch, order(len(prompts), self._seed, place, epoch)
        return prompts[int(self._orders[name][1][at])]


def _shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole prompts per domain, nearest to the weights; they sum to ``total``."""
    names = sorted(weights)
    exact = np.array([weights[name] for name in names])
    exact = exact / exact.sum() * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]] += 1
    if not counts.all():
        raise ShapeError(
            "PromptStream",
            "prompts_per_step",
            expected=f"enough for every domain's share of {dict(weights)}",
            got=str(total),
        )
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
