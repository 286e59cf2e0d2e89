"""The picture of a draft tree."""

from mimo_native.cli.show_tree import tree_lines
from mimo_native.inference.speculation import Draft, Walk


class Letters:
    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + i) for i in ids)


def test_accepted_nodes_stand_out_below_their_parents() -> None:
    draft = Draft((1, 2, 3, 4), (-1, -1, 1, 2))
    walk = Walk(draft, [2, 3], [2, 3, 5], [0.0] * 3)
    assert tree_lines(0, walk, Letters(), colour=False) == [
        "a",
        "  - b",
        "  + c",
        "    + d",
        "      - e",
        "      = f",
    ]
    painted = tree_lines(0, walk, Letters())
    assert painted[2] == "\x1b[1;32m  + c\x1b[0m"
