"""``mimo-native bench model``: a whole model's decode and prefill, beside peers and the machine."""

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import UnsupportedError
from .bench_peers import Peer, peers_of
from .bench_released import RELEASED_LAYERS, released_layers
from .bench_work import WORK, Decode, make_work, weight_bytes

_PROBED_BYTES = 256 << 20  # of each thread: several times what a cache might hold


@dataclass
class Work:
    """One kind of work: what ours and each peer reached, in tokens per second."""

    name: str
    tokens_per_second: float
    limit: float  # of the live probe: bytes that must be read, or operations that must be done
    bound: str  # "bandwidth" | "arithmetic"
    probe: float  # bytes or operations per second, probed between the turns
    peers: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        return self.tokens_per_second / self.limit


@dataclass(frozen=True)
class Result:
    model: str
    weights: str  # formats of the packed weights
    threads: int
    clock: str
    rounds: int
    machine: dict[str, object]
    memory: dict[str, float]
    work: list[Work]
    peer_file: str | None  # what llama.cpp ran
    versions: dict[str, str]  # of the peers
    absent: dict[str, str]  # peers that were asked for and could not run, and why

    def as_dict(self) -> dict[str, object]:
        rows = [{**asdict(w), "fraction": w.fraction} for w in self.work]
        return {**asdict(self), "work": rows}

    def __str__(self) -> str:
        m, mem = self.machine, self.memory
        lines = [
            f"{self.model} in {self.weights}, {self.threads} thread(s), {self.clock} time,"
            f" {m['isa']}, {m['cpu']}",
            f"memory: peak {mem['peak'] / 1e6:.0f} MB above the start, {mem['ratio']:.2f} x"
            f" (weights {mem['weights'] / 1e6:.0f} MB + caches {mem['caches'] / 1e6:.0f} MB)",
        ]
        for w in self.work:
            rivals = "".join(
                f"  {name} {rate:.1f} ({w.tokens_per_second / rate:.2f}x)"
                for name, rate in w.peers.items()
            )
            lines.append(
                f"{w.name:<14} {w.tokens_per_second:>9.1f} tok/s  {w.fraction:.2f} of {w.bound},"
                f" {w.probe / 1e9:.1f} G/s{rivals}"
            )
        lines += [f"not {name}: {why}" for name, why in self.absent.items()]
        return "\n".join(lines)


def run(args: argparse.Namespace) -> Result:
    """What the command's arguments ask for, printed, as JSON where asked."""
    names = args.work.split(",") if args.work else WORK
    unknown = [name for name in names if name not in WORK]
    if unknown:
        raise UnsupportedError(
            "bench model", [f"no work {unknown[0]!r}"], remedy=f"There are {', '.join(WORK)}."
        )
    result = measure(
        args.model,
        names=names,
        threads=int(args.threads.split(",")[0]),
        rounds=args.rounds,
        weight_format=args.weight_format,
        peers=args.peers,
        peer_model=args.peer_model,
    )
    print(json.dumps(result.as_dict(), indent=1) if args.json else result)
    return result


def measure(
    source: str,
    *,
    names: Sequence[str] = WORK,
    threads: int = 1,
    rounds: int = 3,
    weight_format: str | None = None,
    peers: bool = False,
    peer_model: Path | None = None,
) -> Result:
    """Time the work of ``names``; peers and the machine's probe take turns with us.

    On one thread the clock is CPU time, which other work on the machine disturbs little; on more it
    is wall time. peer_model: the GGUF file for llama.cpp, by default ``source``.
    """
    import torch

    from .. import _C
    from ..env import openmp
    from ..nn import MiMoForCausalLM
    from ..weights.resolve import resolve_model

    torch.set_num_threads(threads)
    start = _resident("VmRSS")
    if source == RELEASED_LAYERS:
        model = released_layers()
    else:
        model = MiMoForCausalLM.from_pretrained(resolve_model(source), weight_format=weight_format)
    clock = time.thread_time if threads == 1 else time.perf_counter
    flops_of = "bf16" if model.dtype == torch.bfloat16 else "f32"
    with torch.inference_mode():
        ours = {name: make_work(name, model, clock) for name in names}
        for work in ours.values():
            work()  # warm, and all that the peak of memory needs
        peak = _resident("VmHWM") - start
        rivals, absent = peers_of(source, peer_model, threads) if peers else ({}, {})
        works = []
        for name, work in ours.items():
            if isinstance(work, Decode):
                bound, probe = "bandwidth", lambda: _C.probe_bandwidth(_PROBED_BYTES, threads)
            else:
                bound, probe = "arithmetic", lambda: _C.probe_flops(flops_of, threads)
            rates = _take_turns({"": work, "probe": probe}, rivals, name, rounds)
            rate, probed = rates.pop(""), rates.pop("probe")
            works.append(Work(name, rate, probed / work.per_token(), bound, probed, rates))
    caches = sum(work.cache.nbytes for work in ours.values())
    weights = weight_bytes(model)
    return Result(
        model=Path(source).name,
        weights=_formats(model),
        threads=threads,
        clock="cpu" if threads == 1 else "wall",
        rounds=rounds,
        machine={
            "cpu": platform.processor() or platform.machine(),
            "isa": _C.isa(),
            "omp": openmp(),
        },
        memory={
            "weights": weights,
            "caches": caches,
            "peak": peak,
            "ratio": peak / (weights + caches),
        },
        work=works,
        peer_file=peer_model.name if peer_model else None,
        versions={name: peer.version for name, peer in rivals.items()},
        absent=absent,
    )


def _take_turns(
    ours: dict[str, Callable[[], float]], rivals: dict[str, Peer], name: str, rounds: int
) -> dict[str, float]:
    """Median rates of our own calls and of the peers' work ``name``, sampled in turn."""
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        for label, call in ours.items():
            samples.setdefault(label, []).append(call())
        for rival, peer in rivals.items():
            with contextlib.suppress(UnsupportedError):
                rate = peer(name)
                samples.setdefault(rival, []).append(rate)
    return {label: statistics.median(rates) for label, rates in samples.items()}


def _formats(model: object) -> str:
    """Of the packed weights, the one that holds most bytes first."""
    from ..nn import Weight

    held: dict[str, int] = {}
    for module in model.modules():
        if isinstance(module, Weight) and module.packed and module.weight.format != "f32":
            held[module.weight.format] = held.get(module.weight.format, 0) + module.weight.nbytes
    return " + ".join(sorted(held, key=held.__getitem__, reverse=True))


def _resident(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise UnsupportedError("bench model", ["memory is read from /proc/self/status"])
