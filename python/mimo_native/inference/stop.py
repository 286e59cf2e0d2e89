"""Text as it streams: stop strings end it, and no part of one is ever shown."""

from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["StopFilter", "TokenStream"]


class TokenStream(Protocol):
    """Turns token ids into text piece by piece, holding back incomplete characters."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class StopFilter:
    """Feeds tokens to a stream and cuts the text at the earliest stop string.

    ``push`` returns (text that can be shown now, whether a stop string has appeared). Text that
    could still become a stop string is held back; ``flush`` gives it out when the request ends for
    another reason.
    """

    def __init__(self, stream: TokenStream, stop: Sequence[str]) -> None:
        self._stream, self._stop = stream, tuple(stop)
        self._held = ""

    def push(self, token_id: int) -> tuple[str, bool]:
        return self._take(self._stream.push, token_id)

    def flush(self) -> str:
        text, stopped = self._take(lambda _: self._stream.flush(), 0)
        rest, self._held = ("" if stopped else self._held), ""
        return text + rest

    def _take(self, source: Callable[[int], str], token_id: int) -> tuple[str, bool]:
        if not self._stop:
            return source(token_id), False
        self._held += source(token_id)
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            return text, True
        keep = max((_overlap(self._held, s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text, False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
