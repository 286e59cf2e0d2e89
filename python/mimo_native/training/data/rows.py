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
        spans = self.spans(n)
        tokens = self.file.tokens
        ids = np.concatenate([tokens[start:stop].astype(np.int64) for start, stop in spans])
        return ids, [stop - start for start, stop in spans]

    def spans(self, n: int) -> list[tuple[int, int]]:
        """Where in the token file the documents of row n lie: (start, stop) each."""
        spans: list[tuple[int, int]] = []
        position, wanted = n * self.seq_len, self.seq_len
        while wanted:
            epoch, at = divmod(position, len(self.file))
            start, stop = self._span(epoch, at, wanted)
            spans.append((start, stop))
            position, wanted = position + stop - start, wanted - (stop - start)
        return spans

    def _span(self, epoch: int, at: int, wanted: int) -> tuple[int, int]:
        """From token ``at`` of the epoch's stream to its document's end, at most ``wanted``."""
        if epoch != self._epoch:
            self._order = order(self.file.documents, *self.key, epoch)
            self._ends = np.diff(self.file.offsets)[self._order].cumsum()
            self._epoch = epoch
        slot = int(np.searchsorted(self._ends, at, side="right"))
        document = self._order[slot]
        stop = int(self.file.offsets[document + 1])
        start = stop - (int(self._ends[slot]) - at)
        return start, min(stop, start + wanted)
