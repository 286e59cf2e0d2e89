"""Drafts from the text so far: what followed the last few tokens when they occurred before."""

from collections.abc import Sequence

__all__ = ["NGrams"]

_SIZES = range(8, 1, -1)  # the longest ending that has occurred before decides


class NGrams:
    """Where every short run of tokens of one growing sequence last ended."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._seen = 0  # tokens whose runs are in the table

    def look_up(
        self, tokens: Sequence[int], length: int, drafted: Sequence[int] = ()
    ) -> tuple[list[int], int]:
        """Up to ``length`` tokens that followed the latest earlier occurrence of the last tokens,
        and how many of these there were: 8 at most, 0 for none.

        tokens: those of the last call and whatever has come since; ``drafted`` ones would follow
        them, and end what is looked for, but nothing is copied from there.
        """
        ends = self._ends
        # The runs that end with the last token are looked for, not yet stored.
        for end in range(self._seen + 1, len(tokens)):
            for size in _SIZES:
                if size <= end:
                    ends[tuple(tokens[end - size : end])] = end
        self._seen = max(self._seen, len(tokens) - 1)
        ending = [*tokens[-_SIZES[0] :], *drafted]
        for size in _SIZES:
            end = ends.get(tuple(ending[-size:]))
            if end is not None:
                return list(tokens[end : end + length]), size
        return [], 0
