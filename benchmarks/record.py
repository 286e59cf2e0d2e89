"""Result files: rows with everything that is needed to read them later, one file per family.

``results/F.CPU.json`` is replaced by the next run of family F on that kind of CPU; runs of the same
build add up, so that a family may be measured in pieces. The page docs/numbers.md is made from
these files alone (numbers_page.py).
"""

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch

import mimo_native as mn
from mimo_native import _C
from mimo_native._build_info import BUILD_INFO

from .harness import Row
from .machine import Machine, cpu_name
from .peers import distribution_version

__all__ = ["RESULTS", "record", "save", "save_model", "save_speculation", "write_json"]

RESULTS = Path(__file__).parent / "results"
_CODE = ("csrc", "python", "tests", "benchmarks", ":!*.md", ":!benchmarks/results")
_ROOT = Path(__file__).resolve().parent.parent


def record(rows: Iterable[Row], machine: Machine) -> dict[str, object]:
    """What one run of the benchmarks says, as JSON can hold it."""
    rows = list(rows)
    peers = {name.split()[0] for row in rows for name in row.rival_us} - {"torch"}
    return {
        **_build(),
        "versions": _versions(peers),
        "probe": dict(machine.probed),
        "rows": [row.as_dict() for row in rows],
    }


def save(rows: Iterable[Row], machine: Machine, folder: Path = RESULTS) -> list[Path]:
    """Write one file per family among the rows; returns the files."""
    by_family: dict[str, list[Row]] = {}
    for row in rows:
        by_family.setdefault(row.family, []).append(row)
    paths = []
    for family, members in sorted(by_family.items()):
        paths.append(_file(folder, family))
        write_json(paths[-1], _added(paths[-1], record(members, machine)))
    return paths


def _added(path: Path, new: dict) -> dict:
    """``new`` with the rows that the file has of the same build and that ``new`` has not."""
    old = json.loads(path.read_text()) if path.exists() else {}
    if any(old.get(key) != value for key, value in _build().items()):
        return new
    rows = {(row["name"], row["threads"]): row for row in (*old["rows"], *new["rows"])}
    probes = {key: max(old["probe"].get(key, 0.0), value) for key, value in new["probe"].items()}
    return {
        **new,
        "versions": old["versions"] | new["versions"],
        "probe": old["probe"] | probes,
        "rows": sorted(rows.values(), key=lambda row: row["name"].split()[:2]),
    }


def save_model(result: dict[str, object], folder: Path = RESULTS) -> Path:
    """Put a whole model's result beside those of other models, formats and thread counts.

    Work that this run did not do keeps the run that did it.
    """
    path = _file(folder, "model")
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    key = ("model", "weights", "threads")
    done = {work["name"] for work in result["work"]}
    for run in runs:
        if all(run[k] == result[k] for k in key):
            run["work"] = [work for work in run["work"] if work["name"] not in done]
    run = {**result, **_build(), "versions": _versions(()) | result["versions"]}
    runs = [*(r for r in runs if r["work"]), run]
    write_json(path, {"runs": sorted(runs, key=lambda r: [r[k] for k in key])})
    return path


def save_speculation(result: dict[str, object], folder: Path = RESULTS) -> Path:
    """Put comparisons of plain and speculative decoding beside those of other models; domains that
    this run did not have keep the run that had them."""
    path = _file(folder, "speculation")
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {row["domain"] for row in result["rows"]}
    for run in runs:
        if run["model"] == result["model"]:
            run["rows"] = [row for row in run["rows"] if row["domain"] not in done]
    runs = [*(r for r in runs if r["rows"]), {**result, **_build(), "versions": _versions(())}]
    write_json(path, {"runs": sorted(runs, key=lambda r: (r["model"], r["rows"][0]["domain"]))})
    return path


def _file(folder: Path, family: str) -> Path:
    cpu = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    return folder / f"{family}.{cpu}.json"


def _build() -> dict[str, object]:
    return {
        "cpu": cpu_name(),
        "isa": _C.isa(),
        "compiler": BUILD_INFO["compiler"],
        "flags": BUILD_INFO["flags"],
        "commit": _commit(),
    }


def _versions(peers: Iterable[str]) -> dict[str, str]:
    return {
        "mimo_native": mn.__version__,
        "torch": torch.__version__,
        **{name: distribution_version(name) for name in sorted(peers)},
    }


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def _commit() -> str:
    """The sources' commit, "-dirty" behind it where code has been changed since."""
    try:
        return _git("rev-parse", "--short=12", "HEAD") + (
            "-dirty" if _git("status", "--porcelain", "--", *_CODE) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
