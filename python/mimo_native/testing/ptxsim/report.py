"""What the checkers say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CheckError", "Report"]


@dataclass(frozen=True)
class Report:
    """One finding: the first of its kind at its instruction, ``times`` says how many there were.

    ``kind``: "race", "out of bounds", "misaligned", "uninitialised", "read-only", "in flight",
    "in flight at exit", "inactive lane", "member mask", "barrier", "deadlock", "hang", "trap" and
    more; ``source`` is "file.cu:12", or empty in a build without line information; ``called_from``
    is where that line was inlined, if it was.
    """

    kind: str
    message: str
    kernel: str
    block: tuple[int, int, int]
    thread: int
    ptx_line: int
    ptx: str
    source: str
    called_from: str
    times: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Report":
        return cls(**{**values, "block": tuple(values["block"])})

    def __str__(self) -> str:
        place = f"PTX line {self.ptx_line}"
        if self.source:
            place = f"{self.source}, {place}"
        if self.called_from:
            place += f", called from {self.called_from}"
        more = f" ({self.times} times)" if self.times > 1 else ""
        return (
            f"{self.kind}: {self.message}{more}\n"
            f"    in {self.kernel}, block {self.block}, thread {self.thread}\n"
            f"    at {place}: {self.ptx}"
        )


class CheckError(RuntimeError):
    """A launch did something wrong; ``reports`` says what."""

    def __init__(self, reports: Sequence[Report]) -> None:
        super().__init__("\n".join(str(report) for report in reports))
        self.reports = tuple(reports)
