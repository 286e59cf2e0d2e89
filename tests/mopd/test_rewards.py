"""Built-in verifiers, and what becomes of a bad reward."""

import math

import pytest

import mimo_native as mn
from mimo_native.mopd.rewards import Reward, arithmetic, exact, outcome, resolve_reward


@pytest.mark.parametrize(
    ("completion", "answer", "want"),
    [
        ("9605 ", " 9605", 1.0),
        ("9604", "9605", 0.0),
        ("9605 9605", "9605", 0.0),
        ("", "9605", 0.0),
        ((5, 6), [5, 6], 1.0),
        ((5, 6, 7), [5, 6], 0.0),
        ((5, 6), [], 0.0),
    ],
)
def test_exact(completion: object, answer: object, want: float) -> None:
    assert exact(completion, answer, "") == want


@pytest.mark.parametrize(
    ("completion", "answer", "want"),
    [
        ("3 + 4 = 7", "7", 1.0),
        ("7, or rather 8", "7", 0.0),
        ("it is -2.50", "-2.5", 1.0),
        ("2.5", "-2.5", 0.0),
        ("that makes 3/4", "0.75", 1.0),
        ("1/0", "1", 1.0),  # no number to divide by: what stands before it
        ("nothing", "7", 0.0),
    ],
)
def test_arithmetic(completion: object, answer: object, want: float) -> None:
    assert arithmetic(completion, answer, "") == want


@pytest.mark.parametrize(
    ("verifier", "completion", "answer"),
    [
        (exact, "9605", None),
        (exact, (5, 6), None),
        (arithmetic, "7", None),
        (arithmetic, "7", "seven"),
        (arithmetic, (5, 6), [5, 6]),  # token ids hold no number
    ],
)
def test_nothing_to_compare_with_is_not_a_wrong_answer(
    verifier: Reward, completion: object, answer: object
) -> None:
    with pytest.raises(mn.ShapeError, match=r"reward of domain 'd'.*answer"):
        outcome("d", verifier, completion, answer, "")


def test_a_callable_goes_before_a_verifier_of_its_name() -> None:
    mine = resolve_reward("exact", {"exact": lambda *_: 0.5})
    assert outcome("d", mine, "a", "a", "") == 0.5
    assert outcome("d", resolve_reward("exact", {}), "a", "a", "") == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "high"])
def test_no_number(value: object) -> None:
    with pytest.raises(mn.ShapeError, match="reward of domain 'd'"):
        outcome("d", lambda *_: value, "", None, "")
