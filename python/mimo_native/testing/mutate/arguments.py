"""Why a mutant may survive: arguments that it makes no difference, and what they are about."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .mutations import Mutation
from .ptx import Ptx

__all__ = ["ARGUMENTS", "Argument", "argue", "source_file", "source_line"]

Structure = Callable[[Ptx, Mutation], bool]
# Beside a package that was built in place; an installed one is told by the working directory.
_SOURCES = (Path(__file__).parents[4] / "csrc", Path("csrc"))


@dataclass(frozen=True)
class Argument:
    """``why`` the mutants that it covers behave as the kernel does.

    They are the mutants of ``kinds`` (all, if empty) of PTX statements that ``statement`` is found
    in, of source lines that ``line`` is found in, in files named ``files`` (any, if empty), for
    which ``structure`` holds. Only survivors are asked: what is noticed needs no argument.
    """

    name: str
    why: str
    files: tuple[str, ...] = ()
    line: str = ""
    kinds: tuple[str, ...] = ()
    statement: str = ""
    structure: Structure | None = None

    def covers(self, ptx: Ptx, mutation: Mutation) -> bool:
        name, _, number = mutation.source.partition(":")
        if self.files and name not in self.files:
            return False
        if self.kinds and mutation.kind not in self.kinds:
            return False
        if not re.search(self.statement, mutation.original):
            return False
        if self.line and not re.search(self.line, source_line(name, int(number or 0))):
            return False
        return self.structure is None or self.structure(ptx, mutation)


ARGUMENTS: list[Argument] = []


def argue(
    name: str,
    why: str,
    *,
    files: str | tuple[str, ...] = (),
    line: str = "",
    kinds: tuple[str, ...] = (),
    statement: str = "",
    structure: Structure | None = None,
) -> None:
    """Write an argument down; the first that covers a survivor is the one that is reported."""
    names = (files,) if isinstance(files, str) else files
    ARGUMENTS.append(Argument(name, why, names, line, kinds, statement, structure))


@functools.cache
def source_file(name: str) -> tuple[str, ...]:
    """The lines of a kernel's source; none where the sources are not at hand."""
    found = next((path for root in _SOURCES for path in root.rglob(name)), None) if name else None
    return tuple(found.read_text().splitlines()) if found else ()


def source_line(name: str, number: int) -> str:
    lines = source_file(name)
    return lines[number - 1].strip() if 0 < number <= len(lines) else ""
