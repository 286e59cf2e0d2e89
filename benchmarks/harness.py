"""Times one of our calls against torch's in the same process, and says how near the machine it is.

A benchmark file of a family F, bench_F.py, takes its cases from tests/F/cases.py::

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_rms_norm(compare, case):
        x, weight = case.inputs()
        compare(
            ours=lambda: mn.ops.rms_norm(x, weight),
            torch=lambda: F.rms_norm(x, (case.dim,), weight, 1e-5),
            flops=case.flops, bytes=case.bytes, dtype=case.dtype,
        )

Samples of ours and of torch's alternate, so that whatever else the machine does meets both. On one
thread a sample is CPU time, which other processes hardly disturb; on more it is wall time.
Operands that must come from memory rather than a cache are rotated over copies by the caller
(``weights = itertools.cycle(copies)``, ``ours=lambda: linear(x, next(weights))``), who then passes
the size of all copies as ``working_set``.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from .machine import Machine

__all__ = ["Pair", "Row", "header", "line", "measure"]

Call = Callable[[], object]

# A sample repeats its call until it lasts this long, so that the clock's own cost vanishes.
_SAMPLE_SECONDS = 1e-3
_MIN_ROUNDS, _MAX_ROUNDS = 5, 51


@dataclass(frozen=True)
class Row:
    """One result. Times are medians in microseconds; ``x_torch`` is the median of paired ratios."""

    name: str
    threads: int
    clock: str  # "cpu" | "wall"
    us: float
    torch_us: float | None
    x_torch: float | None
    gflops: float
    gbytes: float
    peak_fraction: float | None  # time the machine's limits ask for / time taken
    bound: str | None  # which limit that is: "flops" | "L2" | "L3" | "DRAM"
    rounds: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Pair:
    """Interleaved samples of two calls (the second may be None)."""

    def __init__(self, ours: Call, other: Call | None, *, threads: int, seconds: float) -> None:
        self.calls = [ours] if other is None else [ours, other]
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self.repeats = [_repeats(call) for call in self.calls]
        self.samples: list[list[float]] = [[] for _ in self.calls]
        self.rounds = _rounds(self.calls, self.repeats, seconds)

    def sample(self, which: int) -> None:
        """Append the seconds per call of one sample."""
        call, repeats, clock = self.calls[which], self.repeats[which], self.clock
        began = clock()
        for _ in range(repeats):
            call()
        self.samples[which].append((clock() - began) / repeats)

    def medians(self) -> list[float]:
        return [statistics.median(s) for s in self.samples]

    def ratio(self) -> float | None:
        """Median over rounds of other / ours."""
        if len(self.samples) == 1:
            return None
        return statistics.median(b / a for a, b in zip(*self.samples, strict=True))


def measure(
    pair: Pair,
    *,
    name: str,
    threads: int,
    machine: Machine,
    flops: float,
    bytes: float,
    dtype: torch.dtype,
    working_set: float | None = None,
) -> Row:
    """The row of a pair whose samples have been taken. flops and bytes are those of one call."""
    seconds, *other = pair.medians()
    limit = machine.limit(
        flops=flops, bytes=bytes, dtype=dtype, working_set=working_set or bytes, threads=threads
    )
    return Row(
        name=name,
        threads=threads,
        clock="cpu" if threads == 1 else "wall",
        us=seconds * 1e6,
        torch_us=other[0] * 1e6 if other else None,
        x_torch=pair.ratio(),
        gflops=flops / seconds / 1e9,
        gbytes=bytes / seconds / 1e9,
        peak_fraction=limit.seconds / seconds if limit else None,
        bound=limit.bound if limit else None,
        rounds=len(pair.samples[0]),
    )


def header(width: int) -> str:
    return (
        f"{'case':<{width}} {'thr':>3} {'us':>10} {'GFLOP/s':>9} {'GB/s':>8} {'% of peak':>14}"
        f" {'x torch':>8}"
    )


def line(row: Row, width: int) -> str:
    peak = "-" if row.peak_fraction is None else f"{100 * row.peak_fraction:.0f} % {row.bound:>5}"
    ratio = "-" if row.x_torch is None else f"{row.x_torch:.2f}"
    return (
        f"{row.name:<{width}} {row.threads:>3} {row.us:>10.1f} {row.gflops:>9.1f}"
        f" {row.gbytes:>8.1f} {peak:>14} {ratio:>8}"
    )


def _repeats(call: Call) -> int:
    call()
    began = time.perf_counter()
    call()
    once = time.perf_counter() - began
    return max(1, min(1000, round(_SAMPLE_SECONDS / max(once, 1e-7))))


def _rounds(calls: list[Call], repeats: list[int], seconds: float) -> int:
    began = time.perf_counter()
    for call, n in zip(calls, repeats, strict=True):
        for _ in range(n):
            call()
    one = time.perf_counter() - began
    return max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(seconds / max(one, 1e-9))))
