"""Results on disk, a line of JSON each, so that a campaign can be cut off and taken up again."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .mutations import Mutation
from .ptx import Kernel

__all__ = ["Known", "Record"]

Known = tuple[str | None, str | None, frozenset[str]]


class Record:
    """What was found for each mutant, and with which cases. Without a path nothing is written.

    A mutant is known by its kernel's code and its line there, so results outlive changes of other
    kernels, of comments and of the machine; a kernel whose code changes begins anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._sets: dict[str, frozenset[str]] = {}
        self._found: dict[tuple[str, ...], tuple[str | None, str | None, str]] = {}
        if path is not None and path.exists():
            content = path.read_text()
            if content and not content.endswith("\n"):  # cut off inside a line
                path.write_text(content + "\n")
            for text in content.splitlines():
                try:
                    self._take(json.loads(text))
                except ValueError:
                    continue

    def _take(self, entry: dict[str, Any]) -> None:
        if "cases" in entry:
            self._sets[entry["set"]] = frozenset(entry["cases"])
        else:
            key = (entry["digest"], str(entry["line"]), entry["kind"], entry["replacement"])
            self._found[key] = (entry["noticed"], entry["by"], entry["tried"])

    def _write(self, entry: dict[str, Any]) -> None:
        self._take(entry)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def cases(self, labels: Iterable[str]) -> str:
        """The name of a set of cases, which is written down once."""
        sorted_labels = sorted(labels)
        name = hashlib.sha256("\n".join(sorted_labels).encode()).hexdigest()[:12]
        if name not in self._sets:
            self._write({"set": name, "cases": sorted_labels})
        return name

    def known(self, kernel: Kernel, mutation: Mutation) -> Known | None:
        """(noticed, by which case, cases that were tried) of an earlier run."""
        line = str(mutation.line - kernel.first)
        found = self._found.get((kernel.digest, line, mutation.kind, mutation.replacement))
        if found is None or found[2] not in self._sets:
            return None
        return found[0], found[1], self._sets[found[2]]

    def add(
        self,
        subject: str,
        kernel: Kernel,
        mutation: Mutation,
        noticed: str | None,
        by: str | None,
        tried: str,
    ) -> None:
        self._write({
            "subject": subject, "kernel": kernel.short, "digest": kernel.digest,
            "line": mutation.line - kernel.first, "source": mutation.source,
            "kind": mutation.kind, "original": mutation.original,
            "replacement": mutation.replacement, "noticed": noticed, "by": by, "tried": tried,
        })  # fmt: skip
