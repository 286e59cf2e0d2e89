"""Drafts from the text so far: what followed the last few tokens when they occurred before."""

from collections.abc import Sequence

__all__ = ["look_up"]


def look_up(
    tokens: Sequence[int], *, length: int, longest: int = 4, shortest: int = 2
) -> list[int]:
    """Up to ``length`` tokens that followed the latest earlier occurrence of the last tokens.

    The longest ending is looked for first, from ``longest`` tokens down to ``shortest``.
    """
    for size in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        ending = list(tokens[-size:])
        for at in range(len(tokens) - size - 1, -1, -1):
            if tokens[at] == ending[0] and list(tokens[at : at + size]) == ending:
                return list(tokens[at + size : at + size + length])
    return []
