"""PTX text as the campaign needs it: its kernels, and where a register was set."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Kernel", "Ptx"]

_ENTRY = re.compile(
    r"^(?:\.visible\s+|\.weak\s+)*\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)\s*(?:\(|$)"
)
_PRIVATE = re.compile(r"^_ZN\d+mn\d+_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_[0-9a-f]{8}\d+")
_PLACES = re.compile(r"^\s*(\.loc\b.*|\$L__tmp\d+:)$")  # what differs although no code does
_HASHES = re.compile(r"_GLOBAL__N__[0-9a-f]+_|_cu_[0-9a-f]{8}")
_TARGET = re.compile(r"^\s*(?:@!?[\w%$]+\s+)?([a-z][\w.:]*)\s+(\{[^}]*\}|[%\w$|]+)\s*,")
_SILENT = ("st.", "red.", "bar", "cp.", "prefetch")  # their first operand is no result


@dataclass(frozen=True)
class Kernel:
    """An entry on the lines ``first`` to ``last``; ``digest`` of its code without places.

    ``entries``: itself, or of a function the entries that name it.
    """

    name: str
    first: int
    last: int
    digest: str
    entries: frozenset[str]

    @property
    def short(self) -> str:
        """File and mangled rest, without the hashes of a private namespace."""
        return _PRIVATE.sub(r"\1:", self.name)


class Ptx:
    """A module's text; lines are numbered from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.split("\n")

    def line(self, number: int) -> str:
        return self.lines[number - 1].split("//")[0].strip()

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """Entries and functions."""
        found: list[tuple[str, str, int, int]] = []
        for first, text in enumerate(self.lines, 1):
            if (match := _ENTRY.match(text)) and (last := self._end(first)):
                found.append((match[1], match[2], first, last))
        bodies = {name: "\n".join(self.lines[first - 1 : last])
                  for kind, name, first, last in found if kind == "entry"}  # fmt: skip
        return tuple(
            Kernel(name, first, last, self._digest(first, last), self._entries(name, bodies))
            for _, name, first, last in found
        )

    @staticmethod
    def _entries(name: str, bodies: dict[str, str]) -> frozenset[str]:
        if name in bodies:
            return frozenset({name})
        return frozenset(e for e, body in bodies.items() if re.search(rf"\b{name}\b", body))

    def _digest(self, first: int, last: int) -> str:
        body = [text for text in self.lines[first - 1 : last] if not _PLACES.match(text)]
        return hashlib.sha256(_HASHES.sub("", "\n".join(body)).encode()).hexdigest()[:16]

    def _end(self, first: int) -> int:
        """The line of the brace that closes what begins on line ``first``; 0: a declaration."""
        depth = 0
        for number in range(first, len(self.lines) + 1):
            line = self.line(number)
            if depth == 0 and line.endswith(";"):
                return 0
            depth += line.count("{") - line.count("}")
            if depth == 0 and "}" in line:
                return number
        return 0

    def kernel_of(self, number: int) -> Kernel | None:
        inside = (kernel for kernel in self.kernels if kernel.first <= number <= kernel.last)
        return next(inside, None)

    def setters(self, register: str, before: int) -> list[int]:
        """Lines above ``before`` in its kernel that set a register, nearest first."""
        kernel = self.kernel_of(before)
        if kernel is None:
            return []
        return [n for n in range(before - 1, kernel.first, -1) if self._sets(n, register)]

    def setter(self, register: str, before: int) -> str:
        """The nearest statement above that sets a register; "" if there is none."""
        return next((self.line(n) for n in self.setters(register, before)), "")

    def _sets(self, number: int, register: str) -> bool:
        if register not in self.lines[number - 1]:
            return False
        match = _TARGET.match(self.line(number))
        if not match or match[1].startswith(_SILENT):
            return False
        return register in re.findall(r"[%\w$]+", match[2])

    def place(self, label: str, near: int) -> int:
        """The line of a label in the kernel that line ``near`` belongs to; 0 if there is none."""
        kernel = self.kernel_of(near)
        if kernel is None:
            return 0
        span = range(kernel.first, kernel.last + 1)
        return next((n for n in span if self.line(n) == f"{label}:"), 0)
