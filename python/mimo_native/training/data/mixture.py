"""Which domain each row of a stage comes from, and the row itself."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ShapeError
from .hidden import HiddenFile
from .order import order
from .rows import PackedRows
from .token_file import TokenFile

__all__ = ["Mixture", "Row"]

# Within every block of this many rows each domain has exactly its share.
_BLOCK = 1024


@dataclass(frozen=True)
class Row:
    """One training sequence: ids int64 [T], the lengths of its documents, and its domain.

    hidden [T, D]: the trunk's states at its tokens, where they are stored beside these.
    """

    ids: np.ndarray
    lengths: tuple[int, ...]
    domain: str
    hidden: Tensor | None = None


class Mixture:
    """Row n of a stage, a function of (seed, stage, n) alone.

    weights are normalised, and rounded to 1/1024 by largest remainder. hidden: the stored states
    of each corpus, which then come with the rows. Raises ShapeError for a weight that is not
    positive, comes to no row, or names no corpus.
    """

    def __init__(
        self,
        files: Mapping[str, TokenFile],
        weights: Mapping[str, float],
        *,
        seq_len: int,
        seed: int,
        stage: int = 0,
        hidden: Mapping[str, HiddenFile] | None = None,
    ) -> None:
        unknown = sorted(set(weights) - set(files))
        if not weights or unknown or not all(w > 0 for w in weights.values()):
            raise ShapeError(
                "Mixture",
                "weights",
                expected=f"positive weights of corpora among {sorted(files)}",
                got=str(dict(weights)),
            )
        self.names = sorted(weights)
        self._key = (seed, stage)
        self.per_block = _shares(np.array([weights[name] for name in self.names]))
        if not self.per_block.all():
            small = self.names[int(self.per_block.argmin())]
            raise ShapeError(
                "Mixture", small, expected=f"a share of at least 1/{_BLOCK}", got=str(weights)
            )
        self._rows = [
            PackedRows(files[name], seq_len=seq_len, key=(seed, stage, i))
            for i, name in enumerate(self.names)
        ]
        self._hidden = hidden
        self._slots = np.repeat(np.arange(len(self.names)), self.per_block)
        self._block, self._domains = -1, self._slots

    def row(self, n: int) -> Row:
        block, at = divmod(n, _BLOCK)
        if block != self._block:
            self._block = block
            self._domains = self._slots[order(_BLOCK, *self._key, -1, block)]
        domain = int(self._domains[at])
        earlier = int((self._domains[:at] == domain).sum())
        rows, name = self._rows[domain], self.names[domain]
        n = block * int(self.per_block[domain]) + earlier
        ids, lengths = rows.row(n)
        hidden = None
        if self._hidden is not None:
            states = self._hidden[name].states
            hidden = torch.cat([states[start:stop] for start, stop in rows.spans(n)])
        return Row(ids, tuple(lengths), name, hidden)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Whole rows per block, nearest to the weights; they sum to the block."""
    exact = weights / weights.sum() * _BLOCK
    rows = np.floor(exact).astype(np.int64)
    missing = _BLOCK - int(rows.sum())
    rows[np.argsort(rows - exact, kind="stable")[:missing]] += 1
    return rows
