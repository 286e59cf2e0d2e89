"""Rows of exactly T tokens, cut from one corpus's documents in an order drawn anew each epoch."""

import numpy as np

from .order import order
from .token_file import TokenFile

__all__ = ["PackedRows"]


class PackedRows:
    """Row n of a corpus is a function of (key, n): resuming needs no state but n.

    The documents of an epoch, shuffled, stand end to end; row n is tokens [n T, (n + 1) T) of that
    endless stream. A document that a row's edge cuts continues in the next row as a document of its
    own: nothing is padded, nothing dropped, and no row sees text beyond its edge.
    """

    def __init__(self, file: TokenFile, *, seq_len: int, key: tuple[int, ...]) -> None:
        self.file, self.seq_len, self.key = file, seq_len, key
        self._epoch = -1
        self._order = self._ends = np.empty(0, np.int64)

    def row(self, n: int) -> tuple[np.ndarray, list[int]]:
        """ids int64 [T], and the lengths of the documents in it, which sum to T."""
        pieces: list[np.ndarray] = []
        position, wanted = n * self.seq_len, self.seq_len
        while wanted:
            epoch, at = divmod(position, len(self.file))
            piece = self._piece(epoch, at, wanted)
            pieces.append(piece)
            position, wanted = position + len(piece), wanted - len(piece)
        return np.concatenate(pieces), [len(piece) for piece in pieces]

    def _piece(self, epoch: int, at: int, wanted: int) -> np.ndarray:
        """From token ``at`` of the epoch's stream to its document's end, at most ``wanted``."""
        if epoch != self._epoch:
            self._order = order(self.file.documents, *self.key, epoch)
            self._ends = np.diff(self.file.offsets)[self._order].cumsum()
            self._epoch = epoch
        slot = int(np.searchsorted(self._ends, at, side="right"))
        document = self._order[slot]
        stop = int(self.file.offsets[document + 1])
        start = stop - (int(self._ends[slot]) - at)
        return self.file.tokens[start : min(stop, start + wanted)].astype(np.int64)
