"""The texts nano is trained on: generated ones, and the standard library of the running Python.

Five domains, from lists that follow a rule to source code. The generated three are pure functions
of the seed; prose and code are Python's documentation strings and sources (PSF licence).
"""

import ast
import json
import os
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["DOMAINS", "write_corpora"]

_SKIPPED = ("test", "tests", "idlelib", "encodings", "pydoc_data", "site-packages", "dist-packages")
_NAMES = tuple("Ada Ben Cora Dan Eva Finn Gia Hugo Ida Jon Kim Leo Mia Nils Ora Pia Tom".split())  # noqa: SIM905
_ITEMS = tuple("apple bolt cable drum engine filter gear hinge iron jack knob lamp nail".split())  # noqa: SIM905
_COLOURS = ["red", "green", "blue", "black", "white"]
_CITIES = ["Oslo", "Lima", "Rome", "Cairo", "Delhi", "Paris", "Quito", "Tokyo"]
_EVENTS = (
    ("INFO", "request {n} finished in {ms} ms"),
    ("INFO", "user {name} logged in"),
    ("WARN", "queue {n} is almost full"),
    ("INFO", "user {name} logged out"),
    ("ERROR", "connection {n} closed by peer"),
)


def _tables(random: random.Random) -> Iterator[str]:
    """Multiplication, counting and conversion tables: after its title a table is certain."""
    while True:
        kind, n = random.randrange(4), random.randrange(2, 13)
        if kind == 0:
            lines = [f"{n} x {i} = {n * i}" for i in range(1, 13)]
            yield f"Table of {n}\n" + "\n".join(lines) + "\n"
        elif kind == 1:
            first = random.randrange(100)
            numbers = ", ".join(str(first + i) for i in range(40))
            yield f"Count from {first}\n{numbers}\n"
        elif kind == 2:
            first = random.randrange(90)
            lines = [f"{i} dozen is {12 * i}" for i in range(first, first + 12)]
            yield f"Dozens from {first}\n" + "\n".join(lines) + "\n"
        else:
            first = random.randrange(60)
            lines = [f"line {i}: the next line is {i + 1}" for i in range(first, first + 12)]
            yield "\n".join(lines) + "\n"


def _records(random: random.Random) -> Iterator[str]:
    """JSON records of one stock list: certain keys, drawn values."""
    while True:
        owner, city = random.choice(_NAMES), random.choice(_CITIES)
        rows = [
            {
                "id": 1000 + i,
                "item": random.choice(_ITEMS),
                "colour": random.choice(_COLOURS),
                "count": random.randrange(1, 10),
                "owner": owner,
                "city": city,
                "in_stock": random.random() < 0.8,
            }
            for i in range(random.randrange(100), random.randrange(104, 110))
        ][:12]
        yield "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def _logs(random: random.Random) -> Iterator[str]:
    """Server logs: a clock that runs on, few messages, drawn numbers."""
    while True:
        clock, n, lines = random.randrange(86_000), random.randrange(100), []
        for _ in range(20):
            clock, n = clock + random.randrange(1, 4), n + 1
            level, text = random.choice(_EVENTS)
            text = text.format(n=n, ms=random.randrange(10, 100), name=random.choice(_NAMES))
            hour, rest = divmod(clock % 86_400, 3600)
            lines.append(f"2026-01-01 {hour:02}:{rest // 60:02}:{rest % 60:02} {level} {text}")
        yield "\n".join(lines) + "\n"


def _prose(random: random.Random) -> Iterator[str]:
    """Documentation strings of the standard library, module by module."""
    for source in _sources(random):
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds)]
        text = "\n\n".join(t for t in texts if t and len(t) > 40)
        if len(text) > 200:
            yield text + "\n"


def _code(random: random.Random) -> Iterator[str]:
    """Sources of the standard library, tests and tables left out."""
    yield from _sources(random)


def _sources(random: random.Random) -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        p for p in sorted(root.rglob("*.py")) if not {*p.relative_to(root).parts} & {*_SKIPPED}
    ]
    random.shuffle(files)
    for file in files:
        try:
            yield file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


# Name, documents and, for the endless ones, the bytes to write.
DOMAINS: dict[str, tuple[Callable[[random.Random], Iterator[str]], int | None]] = {
    "tables": (_tables, 1_500_000),
    "logs": (_logs, 2_500_000),
    "records": (_records, 2_500_000),
    "prose": (_prose, None),
    "code": (_code, None),
}


def write_corpora(directory: str | Path, *, seed: int = 0) -> dict[str, Path]:
    """Write ``directory``/DOMAIN.jsonl, a document {"text": ...} a line; returns the files.

    Code and prose depend on the Python that runs; the others on ``seed`` alone.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return {
        name: _write(directory / f"{name}.jsonl", documents(random.Random(f"{name} {seed}")), limit)
        for name, (documents, limit) in DOMAINS.items()
    }


def _write(path: Path, documents: Iterator[str], limit: int | None) -> Path:
    stage, size = path.with_suffix(".partial"), 0
    with stage.open("w", encoding="utf-8") as file:
        for text in documents:
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text)
            if limit is not None and size >= limit:
                break
    os.replace(stage, path)
    return path
