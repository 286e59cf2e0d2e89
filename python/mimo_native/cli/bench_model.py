"""``mimo-native bench model``: a whole model's decode and prefill, beside peers and the machine."""

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from .bench_peers import WARM_TOKENS, Peer, peers_of

if TYPE_CHECKING:
    from ..nn import MiMoForCausalLM

_CHUNK = 512  # tokens of one pass of a prefill, as the engine's


@dataclass
class Work:
    """One kind of work: what ours and each peer reached, in tokens per second."""

    name: str
    tokens_per_second: float
    limit: float  # of the live probe: bytes that must be read, or operations that must be done
    bound: str  # "bandwidth" | "arithmetic"
    peers: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        return self.tokens_per_second / self.limit


@dataclass(frozen=True)
class Result:
    model: str
    threads: int
    clock: str
    machine: dict[str, object]
    memory: dict[str, float]
    work: list[Work]
    absent: dict[str, str]  # peers that were asked for and could not run, and why

    def as_dict(self) -> dict[str, object]:
        rows = [{**asdict(w), "fraction": w.fraction} for w in self.work]
        return {**asdict(self), "work": rows}

    def __str__(self) -> str:
        m, mem = self.machine, self.memory
        lines = [
            f"{self.model}, {self.threads} thread(s), {self.clock} time, {m['isa']}, {m['cpu']}",
            f"probe {m['bandwidth'] / 1e9:.1f} GB/s, {m['flops'] / 1e9:.0f} GFLOP/s",
            f"memory: peak {mem['peak'] / 1e6:.0f} MB above the start, {mem['ratio']:.2f} x"
            f" (weights {mem['weights'] / 1e6:.0f} MB + caches {mem['caches'] / 1e6:.0f} MB)",
        ]
        for w in self.work:
            rivals = "".join(
                f"  {name} {rate:.1f} ({w.tokens_per_second / rate:.2f}x)"
                for name, rate in w.peers.items()
            )
            lines.append(
                f"{w.name:<14} {w.tokens_per_second:>9.1f} tok/s  {w.fraction:.2f} of {w.bound}"
                f"{rivals}"
            )
        lines += [f"not {name}: {why}" for name, why in self.absent.items()]
        return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Entry of the command; prints the result, as JSON where asked."""
    result = measure(
        args.model,
        threads=int(args.threads.split(",")[0]),
        rounds=args.rounds,
        weight_format=args.weight_format,
        peers=args.peers,
        peer_model=args.peer_model,
    )
    print(json.dumps(result.as_dict(), indent=1) if args.json else result)
    return 0


def measure(
    source: str,
    *,
    threads: int = 1,
    rounds: int = 3,
    weight_format: str | None = None,
    peers: bool = False,
    peer_model: Path | None = None,
) -> Result:
    """Time decode at batch 1 and 8 and prefill of 512 and 2048 tokens; peers take turns with us.

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
    model = MiMoForCausalLM.from_pretrained(resolve_model(source), weight_format=weight_format)
    clock = time.thread_time if threads == 1 else time.perf_counter
    bf16 = model.dtype == torch.bfloat16
    with torch.inference_mode():
        decodes = {f"decode B={batch}": _Decode(model, batch, clock) for batch in (1, 8)}
        prefills = {f"prefill {n}": _Prefill(model, n, clock) for n in (512, 2048)}
        for ours in (*decodes.values(), *prefills.values()):
            ours()  # warm, and all that the peak of memory needs
        peak = _resident("VmHWM") - start
        rivals, absent = peers_of(source, peer_model, threads) if peers else ({}, {})
        works = []
        for name, ours in decodes.items():
            rate, theirs = _take_turns(ours, rivals, name, rounds)
            bandwidth = _C.probe_bandwidth(64 << 20, threads)
            limit = ours.batch * bandwidth / ours.bytes_per_step()
            works.append(Work(name, rate, limit, "bandwidth", theirs))
        for name, ours in prefills.items():
            rate, theirs = _take_turns(ours, rivals, name, rounds)
            flops = _C.probe_flops("bf16" if bf16 else "f32", threads)
            works.append(Work(name, rate, flops / ours.flops_per_token(), "arithmetic", theirs))
    caches = sum(ours.cache.nbytes for ours in (*decodes.values(), *prefills.values()))
    weights = _weight_bytes(model)
    return Result(
        model=source,
        threads=threads,
        clock="cpu" if threads == 1 else "wall",
        machine={
            "cpu": platform.processor() or platform.machine(),
            "isa": _C.isa(),
            "bandwidth": bandwidth,
            "flops": flops,
            "omp": openmp(),
        },
        memory={
            "weights": weights,
            "caches": caches,
            "peak": peak,
            "ratio": peak / (weights + caches),
        },
        work=works,
        absent=absent,
    )


def _take_turns(
    ours: Callable[[], float], rivals: dict[str, Peer], name: str, rounds: int
) -> tuple[float, dict[str, float]]:
    """Median tokens per second of ours and of the peers, sampled in turn."""
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        samples.setdefault("", []).append(ours())
        for rival, call in rivals.items():
            with contextlib.suppress(UnsupportedError):
                samples.setdefault(rival, []).append(call(name))
    medians = {k: statistics.median(v) for k, v in samples.items() if v}
    return medians.pop(""), medians


class _Decode:
    """Greedy decoding from a short context; called, it returns tokens per second."""

    steps = 32

    def __init__(self, model: "MiMoForCausalLM", batch: int, clock: Callable[[], float]) -> None:
        import torch

        self.model, self.batch, self.clock = model, batch, clock
        self.cache = model.new_cache(batch, WARM_TOKENS + self.steps)
        self.prompt = torch.randint(0, model.config.vocab_size, (batch, WARM_TOKENS))
        self.routing: list[object] = []

    def __call__(self) -> float:
        for row in range(self.batch):
            self.cache.reset(row)
        ids = self.model(self.prompt, cache=self.cache, logits="last").logits.argmax(-1)[:, None]
        began = self.clock()
        for _ in range(self.steps):
            out = self.model(ids, cache=self.cache, logits="last")
            ids = out.logits.argmax(-1)[:, None]
            self.routing.append(out.routing)
        return self.batch * self.steps / (self.clock() - began)

    def bytes_per_step(self) -> float:
        """Weights that a step reads: of experts, those that some token of the batch chose."""
        fixed, per_expert = _read_bytes(self.model)
        hit = [
            sum(layer.unique().numel() for layer in routing)
            for routing in self.routing
            if routing is not None
        ]
        return fixed + per_expert * (statistics.mean(hit) if hit else 0)


class _Prefill:
    """A prompt from an empty cache, in chunks; called, it returns tokens per second."""

    def __init__(self, model: "MiMoForCausalLM", tokens: int, clock: Callable[[], float]) -> None:
        import torch

        self.model, self.tokens, self.clock = model, tokens, clock
        self.cache = model.new_cache(1, tokens)
        self.prompt = torch.randint(0, model.config.vocab_size, (1, tokens))

    def __call__(self) -> float:
        self.cache.reset(0)
        began = self.clock()
        for first in range(0, self.tokens, _CHUNK):
            chunk = self.prompt[:, first : first + _CHUNK]
            self.model(chunk, cache=self.cache, logits="none")
        return self.tokens / (self.clock() - began)

    def flops_per_token(self) -> float:
        """Products of the layers, and of attention over the keys that each token sees."""
        config, total = self.model.config, 0.0
        for i, layer in enumerate(self.model.model.layers):
            c = config.layer(i)
            total += 2 * (layer.self_attn.qkv.weight.shape.numel())
            total += 2 * (layer.self_attn.o.weight.shape.numel())
            active = config.num_experts_per_tok if c.moe else 1
            total += 2 * active * 3 * c.intermediate_size * config.hidden_size
            seen = sum(min(p + 1, c.window_keys or p + 1) for p in range(self.tokens))
            total += 2 * seen / self.tokens * c.num_q_heads * (c.head_dim + c.v_head_dim)
        return total


# ---------------------------------------------------------------------- bytes


def _weight_bytes(model: "MiMoForCausalLM") -> int:
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values()) + sum(w.weight.nbytes for w in _packed(model))


def _read_bytes(model: "MiMoForCausalLM") -> tuple[float, float]:
    """Bytes that every step of the main model reads, and those of one expert."""
    fixed, expert = float(model.head.weight.nbytes), 0.0
    for weight in _packed(model.model.layers):
        if weight.experts is None:
            fixed += weight.weight.nbytes
    for layer in model.model.layers:
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            both = experts.gate_up.weight.nbytes + experts.down.weight.nbytes
            expert = both / experts.gate_up.experts
    return fixed, expert


def _packed(module: object) -> Iterator[object]:
    from ..nn import Weight

    return (m for m in module.modules() if isinstance(m, Weight) and m.packed)


def _resident(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise UnsupportedError("bench model", ["memory is read from /proc/self/status"])
