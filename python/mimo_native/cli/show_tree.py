"""``generate --show-tree``: every draft tree as it is verified, the accepted path in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inference import Engine

if TYPE_CHECKING:
    from ..inference.request import Piece, Request
    from ..inference.speculation import Round, Walk
    from ..text import Tokenizer

__all__ = ["TreeEngine", "tree_lines"]

_ACCEPTED, _REJECTED, _DRAWN, _OFF = "\x1b[1;32m", "\x1b[2m", "\x1b[1;36m", "\x1b[0m"


def tree_lines(root: int, walk: Walk, tokenizer: Tokenizer, *, colour: bool = True) -> list[str]:
    """One line per node below its parent: accepted (+), rejected, and last what was drawn (=)."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(walk.draft.parents, start=1):
        children.setdefault(parent + 1, []).append(node)
    accepted = set(walk.path)
    lines = [_text(tokenizer, root)]
    stack = [(node, 1) for node in reversed(children.get(0, []))]
    while stack:
        node, depth = stack.pop()
        good = node in accepted
        text = f"{'  ' * depth}{'+' if good else '-'} " + _text(
            tokenizer, walk.draft.tokens[node - 1]
        )
        lines.append(_paint(text, _ACCEPTED if good else _REJECTED, colour))
        stack += [(child, depth + 1) for child in reversed(children.get(node, []))]
    drawn = f"{'  ' * (len(walk.path) + 1)}= " + _text(tokenizer, walk.tokens[-1])
    return [*lines, _paint(drawn, _DRAWN, colour)]


class TreeEngine(Engine):
    """An engine that prints the trees of its one request as they are verified."""

    colour = True

    def _walked(self, requests: list[Request], round: Round, began: float) -> list[Piece]:
        for request, walk in zip(requests, round.walks, strict=True):
            if walk.draft:
                lines = tree_lines(request.tokens[-1], walk, self.tokenizer, colour=self.colour)
                print("\n".join(lines), flush=True)
        return super()._walked(requests, round, began)


def _text(tokenizer: Tokenizer, token: int) -> str:
    return repr(tokenizer.decode([token]))[1:-1] or "''"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_OFF}" if colour else text
