"""What this machine can do at most, measured in the same session as the benchmarks."""

import platform
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from mimo_native import _C

__all__ = ["Limit", "Machine", "cpu_name"]

# Working sets per thread whose read bandwidth is probed.
_LEVELS = {"L2": 512 << 10, "L3": 6 << 20, "DRAM": 256 << 20}
_L3_SIZE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


@dataclass(frozen=True)
class Limit:
    """The least time a call can take, and the resource that says so."""

    seconds: float
    bound: str


@dataclass
class Machine:
    """Peaks by (kind, threads). Memory is probed for each case, since a shared machine's bandwidth
    changes by the minute, and the best is told; arithmetic and caches once."""

    probed: dict[str, float] = field(default_factory=dict)

    def limit(
        self, *, flops: float, bytes: float, dtype: torch.dtype, working_set: float, threads: int
    ) -> Limit | None:
        """The larger of arithmetic and memory time; None where the build has no probes."""
        if not hasattr(_C, "probe_flops"):
            return None
        level = _level(working_set, threads)
        compute = flops / self.flops(dtype, threads)
        memory = bytes / self.bandwidth(level, threads)
        return Limit(compute, "flops") if compute >= memory else Limit(memory, level)

    def flops(self, dtype: torch.dtype, threads: int) -> float:
        name = {torch.bfloat16: "bf16", torch.int8: "int8"}.get(dtype, "f32")
        return self._once(f"{name} flop/s, {threads} threads", _C.probe_flops, name, threads)

    def bandwidth(self, level: str, threads: int) -> float:
        size, key = _LEVELS[level], f"{level} read B/s, {threads} threads"
        if level != "DRAM":
            return self._once(key, _C.probe_bandwidth, size, threads)
        now = max(_C.probe_bandwidth(size, threads) for _ in range(2))
        self.probed[key] = max(now, self.probed.get(key, 0.0))
        return now

    def _once(self, key: str, probe, *args) -> float:
        if key not in self.probed:
            self.probed[key] = max(probe(*args) for _ in range(3))
        return self.probed[key]


def _level(working_set: float, threads: int) -> str:
    """The nearest memory that can hold it; what L3 might hold counts as held, the harder limit."""
    if working_set <= _LEVELS["L2"] * threads:
        return "L2"
    return "L3" if working_set <= max(_l3_bytes(), _LEVELS["L3"] * threads) else "DRAM"


@cache
def _l3_bytes() -> int:
    try:
        return int(_L3_SIZE.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return 0


@cache
def cpu_name() -> str:
    """The processor's own name, as Linux reports it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for text in info.read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
