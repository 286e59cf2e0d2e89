"""``mimo-native bench --device cuda``: the families' cases on a GPU, by its own clock.

A call is timed alone, between two events on the current stream, after a buffer larger than any
cache of a GPU was overwritten: operands come from memory. Torch's call, where it has one for the
case, takes turns with ours. What an op does not serve there is named with its reasons.
**None of this has been run on a GPU.**
"""

import importlib
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from tests.case import Case
from tests.on_device import on_device

import mimo_native as mn
from mimo_native import backends, ops

from .harness import Row, header, line

__all__ = ["FAMILIES", "Events", "Refused", "device_record", "gpu", "rows", "run"]

FAMILIES = ("attention", "experts", "gemm", "norm_rope", "routing", "sampling")
_FLUSHED = 256 << 20  # bytes
_WARM_UPS, _MIN_ROUNDS, _MAX_ROUNDS = 2, 5, 200
Call = Callable[[], object]


@dataclass(frozen=True)
class Refused:
    """A case that the CUDA backend does not serve."""

    name: str
    reasons: tuple[str, ...]


class Events:
    """Seconds of a call on the current stream of the current device."""

    def __init__(self) -> None:
        self._buffer = torch.empty(_FLUSHED, dtype=torch.int8, device="cuda")

    def __call__(self, call: Call) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._buffer.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def gpu() -> None:
    """Raise UnsupportedError unless there is a GPU that the package's kernels run on."""
    backends.native("cuda")
    if not torch.cuda.is_available():
        reasons = [f"torch {torch.__version__} sees no CUDA device"]
        raise mn.UnsupportedError("bench", reasons, remedy="Install a torch with CUDA.")


def rows(
    cases: Sequence[Case],
    family: str,
    *,
    device: str,
    clock: Callable[[Call], float],
    seconds: float,
) -> Iterator[Row | Refused]:
    """Measure one case after the other."""
    for case in cases:
        name = f"{family} {case}"
        try:
            args = on_device(case, case.make(), device)
            ours = partial(getattr(ops, case.op), **args)
            ours()
        except mn.UnsupportedError as error:
            yield Refused(name, error.reasons)
            continue
        calls = {"ours": ours}
        if theirs := _torch_call(case, args):
            calls["torch"] = theirs
        yield _row(case, name, _samples(calls, clock, seconds), calls)


def _samples(
    calls: dict[str, Call], clock: Callable[[Call], float], seconds: float
) -> list[dict[str, float]]:
    for _ in range(_WARM_UPS):
        turn = {name: clock(call) for name, call in calls.items()}
    count = int(seconds / max(sum(turn.values()), 1e-9))
    count = max(_MIN_ROUNDS, min(_MAX_ROUNDS, count))
    return [{name: clock(call) for name, call in calls.items()} for _ in range(count)]


def _row(case: Case, name: str, samples: list[dict[str, float]], calls: dict[str, Call]) -> Row:
    least = {who: statistics.median(turn[who] for turn in samples) for who in calls}
    ours, rivals = least["ours"], [who for who in calls if who != "ours"]
    return Row(
        name=name,
        threads=0,
        clock="events",
        us=ours * 1e6,
        rival_us={who: least[who] * 1e6 for who in rivals},
        x={who: statistics.median(t[who] / t["ours"] for t in samples) for who in rivals},
        gflops=case.flops / ours / 1e9,
        gbytes=case.bytes / ours / 1e9,
        peak_fraction=None,
        bound=None,
        rounds=len(samples),
    )


def _torch_call(case: Case, args: dict) -> Call | None:
    """Torch's own kernel for the same thing, if it has one."""
    if case.op == "linear":
        return lambda: F.linear(args["x"], args["w"])
    if case.op == "rms_norm" and args["x"].dtype == args["weight"].dtype:
        shape = args["weight"].shape
        return lambda: F.rms_norm(args["x"], shape, args["weight"], args["eps"])
    if case.op == "grouped_gemm" and case.dtype == torch.bfloat16 and args["x"].is_cuda:
        ends, columns = args["group_sizes"].cumsum(0).int(), args["w"].transpose(-2, -1)
        return lambda: F.grouped_mm(args["x"], columns, offs=ends)
    return None


def device_record() -> dict[str, object]:
    """What a result must say of the device."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "mimo_native": mn.__version__,
    }


def run(families: Sequence[str], *, seconds: float, json: bool) -> dict[str, object]:
    """Measure and print; the result. Raises UnsupportedError before anything is made."""
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        reasons = [f"{name!r} has no cases for a GPU" for name in unknown]
        raise mn.UnsupportedError("bench", reasons, remedy=f"There are {', '.join(FAMILIES)}.")
    gpu()
    out = sys.stderr if json else sys.stdout
    about = device_record()
    print(", ".join(f"{key} {value}" for key, value in about.items()), file=out)
    found: list[Row] = []
    clock = Events()
    with torch.no_grad():
        for family in families or FAMILIES:
            cases = importlib.import_module(f"tests.{family}.cases").BENCHMARKS
            width = max(len(f"{family} {case}") for case in cases)
            print(header(width), file=out)
            for row in rows(cases, family, device="cuda", clock=clock, seconds=seconds):
                if isinstance(row, Refused):
                    print(f"{row.name:<{width}} not served: {'; '.join(row.reasons)}", file=out)
                else:
                    found.append(row)
                    print(line(row, width), file=out, flush=True)
    return {**about, "rows": [row.as_dict() for row in found]}
