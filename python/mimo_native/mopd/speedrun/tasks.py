"""Domains with verifiers for small models: strings of digits to rewrite, and text to keep.

Each of four tasks has a defect of its own, in which a fine-tuned student is taught to err: its
samples are seldom right though its best guess is, as with a policy that training can sharpen. The
fifth domain is text of the base model's, which no specialist teaches.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from ...pretrain.nano.corpora import DOMAINS as TEXTS

__all__ = ["SELF", "TASKS", "write_tasks", "write_text"]

DIGITS = 8
SELF = "text"


def _reverse(s: str) -> str:
    return s[::-1]


def _shift(s: str) -> str:
    return "".join(str((int(c) + 3) % 10) for c in s)


def _sort(s: str) -> str:
    return "".join(sorted(s))


def _swap(s: str) -> str:
    return s[len(s) // 2 :] + s[: len(s) // 2]


def _repeats(s: str, rate: float, draw: random.Random) -> str:
    """Writes the digit before once more."""
    return s[0] + "".join(a if draw.random() < rate else b for a, b in pairwise(s))


def _slips(s: str, rate: float, draw: random.Random) -> str:
    """Is one off."""
    return "".join(str((int(c) + 1) % 10) if draw.random() < rate else c for c in s)


def _swaps(s: str, rate: float, draw: random.Random) -> str:
    """Exchanges neighbours."""
    digits = list(s)
    for i in range(len(digits) - 1):
        if draw.random() < rate:
            digits[i], digits[i + 1] = digits[i + 1], digits[i]
    return "".join(digits)


def _guesses(s: str, rate: float, draw: random.Random) -> str:
    """Writes any digit."""
    return "".join(draw.choice("0123456789") if draw.random() < rate else c for c in s)


Defect = Callable[[str, float, random.Random], str]
TASKS: dict[str, tuple[Callable[[str], str], Defect]] = {
    "reverse": (_reverse, _repeats),
    "shift": (_shift, _slips),
    "sort": (_sort, _swaps),
    "swap": (_swap, _guesses),
}


def write_tasks(
    directory: str | Path, *, train: int, heldout: int, defect: float, seed: int = 0
) -> Path:
    """Write TASK.jsonl, TASK.defect.jsonl and TASK.heldout.jsonl for every task, and the same of
    the text domain, whose answers go on with a document. A pure function of the arguments.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, (solve, spoil) in TASKS.items():
        draw = random.Random(f"{name} {seed}")
        numbers = _numbers(draw)
        for part, count, rate in (
            ("", train, 0.0),
            (".defect", train, defect),
            (".heldout", heldout, 0.0),
        ):
            rows = []
            for _ in range(count):
                number = next(numbers)
                answer = solve(number)
                rows.append((f"{name} {number}\n", spoil(answer, rate, draw) if rate else answer))
            _write(directory / f"{name}{part}.jsonl", rows)
    draw = random.Random(f"{SELF} {seed}")
    texts = _texts(draw)
    for part, count in (("", train // 4), (".heldout", heldout)):
        _write(directory / f"{SELF}{part}.jsonl", [next(texts) for _ in range(count)])
    return directory


def _numbers(draw: random.Random) -> Iterator[str]:
    """Strings of digits, none twice."""
    seen: set[str] = set()
    while True:
        number = "".join(draw.choice("0123456789") for _ in range(DIGITS))
        if number not in seen:
            seen.add(number)
            yield number


def _texts(draw: random.Random) -> Iterator[tuple[str, str]]:
    """A line or two of nano's own generated documents, and how they go on."""
    sources = [TEXTS[name][0](draw) for name in ("tables", "records", "logs")]
    while True:
        for source in sources:
            lines = next(source).splitlines(keepends=True)
            if len(lines) > 2:
                start = draw.randrange(len(lines) - 2)
                yield "".join(lines[start : start + 2]), lines[start + 2]


def _write(path: Path, rows: list[tuple[str, str]]) -> None:
    write_text(path, "".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in rows))


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    stage = path.with_suffix(".partial")
    stage.write_text(text, encoding="utf-8")
    os.replace(stage, path)
