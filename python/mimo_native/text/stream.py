"""Turns tokens into text one at a time, holding back whatever is not yet a whole character.

A token may end in the middle of a UTF-8 sequence. What is passed on is always final: the pieces
and the last ``flush`` together are exactly ``decode`` of all ids.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["ByteStream", "TextStream", "WindowStream", "token_bytes"]

_REPLACEMENT = "\ufffd"


class TextStream(Protocol):
    """What ``Tokenizer.stream`` returns."""

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` completes, often empty."""
        ...

    def flush(self) -> str:
        """What was held back; broken bytes become U+FFFD. The stream is then as new."""
        ...


def _byte_of_char() -> dict[str, int]:
    """Byte-level BPE writes printable bytes as themselves, the others as U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    chars = {chr(byte): byte for byte in printable}
    return chars | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHAR = _byte_of_char()


def token_bytes(token: str) -> bytes:
    """The bytes of a byte-level BPE token; one outside that alphabet stands for its own text."""
    try:
        return bytes([_BYTE_OF_CHAR[char] for char in token])
    except KeyError:
        return token.encode("utf-8")


class ByteStream:
    """For byte-level BPE: a token has its bytes, whatever stands before it."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowStream:
    """For every other decoder: a token's text may depend on its neighbours, so a window is decoded
    anew.

    The window starts at the last token whose text was passed on, which gives the decoder its
    context.
    """

    def __init__(self, decode: Callable[[Iterable[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._passed = 0

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        known, text = self._texts()
        if text.endswith(_REPLACEMENT) or len(text) <= len(known):
            return ""
        self._window = self._window[self._passed :]
        self._passed = len(self._window)
        return text[len(known) :]

    def flush(self) -> str:
        known, text = self._texts()
        self._window, self._passed = [], 0
        return text[len(known) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._window[: self._passed]), self._decode(self._window)
