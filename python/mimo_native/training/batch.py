"""Rows of one step, as the micro-batches that this rank runs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError
from .data import Row

__all__ = ["MicroBatch", "micro_batches"]


@dataclass(frozen=True)
class MicroBatch:
    """Packed rows: ids int64 [N], the lengths of their documents [S], and the number of rows.

    hidden [N, D]: the trunk's states where they are stored; then no trunk runs.
    ``real`` is False for a stand-in that a rank without rows of its own runs along, so that
    collectives match; it must count for nothing.
    """

    ids: Tensor
    lengths: Tensor
    rows: int
    real: bool = True
    hidden: Tensor | None = None

    @property
    def cu_seqlens(self) -> Tensor:
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)

    def targets(self, shift: int) -> Tensor:
        """Number of documents' positions that have a token ``shift`` later."""
        return (self.lengths - shift).clamp(min=0).sum() * int(self.real)


def micro_batches(
    rows: Iterable[Row],
    *,
    micro_rows: int,
    vocab_size: int,
    rank: int = 0,
    world: int = 1,
) -> list[MicroBatch]:
    """Rows ``rank``, ``rank`` + ``world``, ... of a step in groups of at most ``micro_rows``.

    Every rank gets equally many groups. Raises ShapeError for an id outside the vocabulary, naming
    the corpus.
    """
    rows = list(rows)
    for row in rows:
        if row.ids.max() >= vocab_size or row.ids.min() < 0:
            raise ShapeError(
                "pretrain",
                f"corpus {row.domain!r}",
                expected=f"token ids in [0, {vocab_size})",
                got=f"[{row.ids.min()}, {row.ids.max()}]",
                remedy="Prepare it with the tokenizer of this model.",
            )
    mine = rows[rank::world]
    groups = [mine[i : i + micro_rows] for i in range(0, len(mine), micro_rows)]
    batches = [_pack(group) for group in groups]
    most = math.ceil(math.ceil(len(rows) / world) / micro_rows)
    while len(batches) < most:
        batches.append(_pack(rows[:1], real=False))
    return batches


def _pack(rows: list[Row], *, real: bool = True) -> MicroBatch:
    ids = torch.from_numpy(np.concatenate([row.ids for row in rows]))
    lengths = torch.tensor([n for row in rows for n in row.lengths])
    stored = [row.hidden for row in rows if row.hidden is not None]
    return MicroBatch(ids, lengths, len(rows), real, torch.cat(stored) if stored else None)
