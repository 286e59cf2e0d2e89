"""Outcome rewards: Python callables, a few built-in verifiers, and what is done with a bad one."""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from ..errors import ShapeError, UnsupportedError
from . import sandbox

__all__ = [
    "Reward",
    "arithmetic",
    "exact",
    "needs_answers",
    "outcome",
    "resolve_reward",
    "unit_tests",
]

Text = str | Sequence[int]
Reward = Callable[[Text, Text | None, Text], float]
"""(completion, answer, prompt) -> a finite number. Text, or token ids without a tokenizer."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")


def exact(completion: Text, answer: Text | None, prompt: Text) -> float:
    """1 where the completion is the answer, white space at the ends apart. ValueError without an
    answer: to no completion could it be anything but 0.
    """
    if answer is None:
        raise ValueError("the prompt has no answer to compare with")
    if isinstance(completion, str):
        return float(isinstance(answer, str) and completion.strip() == answer.strip())
    return float(list(completion) == list(answer))


def arithmetic(completion: Text, answer: Text | None, prompt: Text) -> float:
    """1 where the last number of the completion is that of the answer. ValueError where the answer
    holds none.
    """
    got, want = _last_number(completion), _last_number(answer)
    if want is None:
        raise ValueError(f"no number in the answer {answer!r}")
    return float(got is not None and math.isclose(got, want, rel_tol=1e-9))


def unit_tests(completion: Text, answer: Text | None, prompt: Text) -> float:
    """1 where the completion, a Python program, passes the tests in the answer. Both run in the
    sandbox of ``mopd.sandbox``, and nowhere else. ValueError without tests, or for token ids.
    """
    if not isinstance(completion, str) or not isinstance(answer, str):
        raise ValueError("expected a program and its tests as text")
    return float(sandbox.passes(completion, answer))


def _last_number(text: Text | None) -> float | None:
    found = _NUMBER.findall(text) if isinstance(text, str) else []
    if not found:
        return None
    top, _, bottom = found[-1].partition("/")
    return float(top) / float(bottom) if bottom and float(bottom) else float(top)


_BUILT_IN: dict[str, Reward] = {"exact": exact, "arithmetic": arithmetic, "unit_tests": unit_tests}


def resolve_reward(name: str, given: Mapping[str, Reward]) -> Reward:
    """A callable given to ``run``, or a built-in verifier. Raises UnsupportedError, ShapeError."""
    if name in given:
        return given[name]
    if name == "unit_tests" and (why := sandbox.reasons()):
        raise UnsupportedError(
            "mopd",
            ["the reward unit_tests runs code that a model wrote, and there is no sandbox", *why],
            remedy="Give run() a callable of your own that provides one.",
        )
    if name not in _BUILT_IN:
        expected = f"one of {sorted({*_BUILT_IN, *given})}"
        raise ShapeError("mopd", "reward", expected=expected, got=repr(name))
    return _BUILT_IN[name]


def needs_answers(reward: Reward) -> bool:
    """Whether it can say nothing of a prompt without an answer; callables may not need one."""
    return reward in _BUILT_IN.values()


def outcome(
    domain: str, reward: Reward, completion: Text, answer: Text | None, prompt: Text
) -> float:
    """The reward's value. Raises ShapeError where it raises or returns no finite number."""
    try:
        value = float(reward(completion, answer, prompt))
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise _bad(domain, got) from error
    if not math.isfinite(value):
        raise _bad(domain, str(value))
    return value


def _bad(domain: str, got: str) -> ShapeError:
    return ShapeError(
        "mopd",
        f"reward of domain {domain!r}",
        expected="a finite number",
        got=got,
        remedy='Correct it, or set on_bad="skip" to leave such rollouts out and count them.',
    )
