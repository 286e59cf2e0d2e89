"""Stop strings, however the tokens cut them."""

import random

from mimo_native.inference.stop import StopFilter


class Pieces:
    """A token stream whose token i is the i-th piece of a text."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def push(self, token_id: int) -> str:
        return self.pieces[token_id]

    def flush(self) -> str:
        return ""


def run(pieces: list[str], stop: list[str]) -> tuple[str, bool]:
    f = StopFilter(Pieces(pieces), stop)
    shown = ""
    for i in range(len(pieces)):
        text, stopped = f.push(i)
        shown += text
        assert not any(s in shown for s in stop)
        if stopped:
            return shown, True
    return shown + f.flush(), False


def expected(pieces: list[str], stop: list[str]) -> tuple[str, bool]:
    """The text up to the first complete stop string; of several in one piece, the earliest."""
    text = ""
    for piece in pieces:
        text += piece
        found = [text.find(s) for s in stop if s in text]
        if found:
            return text[: min(found)], True
    return text, False


def test_random_texts_cut_at_random() -> None:
    rng = random.Random(0)
    for _ in range(5000):
        pieces = ["".join(rng.choices("ab", k=rng.randrange(4))) for _ in range(rng.randrange(12))]
        stop = ["".join(rng.choices("ab", k=rng.randrange(1, 5))) for _ in range(rng.randrange(3))]
        assert run(pieces, stop) == expected(pieces, stop), (pieces, stop)


def test_nothing_of_a_stop_string_is_shown() -> None:
    f = StopFilter(Pieces(["x<", "/a", "nswer", ">y"]), ["</answer>"])
    assert f.push(0) == ("x", False)
    assert f.push(1) == ("", False)
    assert f.push(2) == ("", False)
    assert f.push(3) == ("", True)


def test_a_near_miss_is_given_out() -> None:
    assert run(["x<", "/b"], ["</a"]) == ("x</b", False)
    assert run(["x", "</"], ["</a"]) == ("x</", False)
