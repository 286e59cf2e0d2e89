"""Sequences of one step, prompts with answers, as the micro-batches that a rank runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..training.batch import MicroBatch

__all__ = ["AnswerBatch", "pack_answers", "split"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class AnswerBatch:
    """Packed sequences without their last tokens, and the answers that they predict.

    ids int64 [M], lengths int64 [S] of the sequences; rows int64 [N]: positions that predict an
    answer's token, targets int64 [N]: that token, answers int64 [S]: tokens of each answer.
    whole: the same sequences with their last tokens, for the MTP heads; kept int64 [M]: where ids
    are in it.
    """

    ids: Tensor
    lengths: Tensor
    rows: Tensor
    targets: Tensor
    answers: Tensor
    whole: MicroBatch
    kept: Tensor

    @property
    def cu_seqlens(self) -> Tensor:
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)


def pack_answers(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> AnswerBatch:
    """From pairs of prompt and answer ids, none of them empty."""
    whole = torch.tensor([token for prompt, answer in sequences for token in (*prompt, *answer)])
    sizes = torch.tensor([len(prompt) + len(answer) for prompt, answer in sequences])
    answers = torch.tensor([len(answer) for _, answer in sequences])
    ends = sizes.cumsum(0)
    keep = torch.ones_like(whole, dtype=torch.bool)
    keep[ends - 1] = False
    # Token j of an answer is predicted one position earlier, where only kept tokens count.
    first = (ends - torch.arange(len(sequences))) - 1 - answers
    steps = torch.arange(int(answers.sum())) - torch.repeat_interleave(
        answers.cumsum(0) - answers, answers
    )
    rows = torch.repeat_interleave(first, answers) + steps
    targets = whole[torch.repeat_interleave(ends - answers, answers) + steps]
    return AnswerBatch(
        ids=whole[keep],
        lengths=sizes - 1,
        rows=rows,
        targets=targets,
        answers=answers,
        whole=MicroBatch(whole, sizes, len(sequences)),
        kept=keep.nonzero()[:, 0],
    )


def split(
    items: Sequence[Item], tokens: Callable[[Item], int], micro_tokens: int
) -> list[list[Item]]:
    """In order, into groups of at most ``micro_tokens`` tokens, or of one longer item."""
    groups: list[list[Item]] = []
    room = -math.inf
    for item in items:
        room -= tokens(item)
        if room < 0:
            groups.append([])
            room = micro_tokens - tokens(item)
        groups[-1].append(item)
    return groups
