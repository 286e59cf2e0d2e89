"""A GPU that is not there: CUDA backends on CPU tensors, host launchers included, under checkers.

The CUDA module is linked a second time, against a CUDA runtime that hands every launch to the PTX
interpreter. What runs is the PTX inside the objects that ship.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import backends
from ..errors import UnsupportedError
from .ptxsim.arguments import merged_spans
from .ptxsim.module import interpreter
from .ptxsim.report import CheckError, Report
from .ptxsim.stats import InstructionStats, Stats

__all__ = ["Launch", "SimulatedGpu", "simulated_gpu"]


@dataclass(frozen=True)
class Launch:
    """One kernel launch: its shape and its counts."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    stats: Stats


@dataclass
class SimulatedGpu:
    """Stands in for the CUDA module; ``launches`` is what has run so far, in order."""

    launches: list[Launch] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(_cuda_sim(), name)
        return functools.partial(self._call, name, found) if callable(found) else found

    def run(self, function: Any, *args: Any, memory: Sequence[torch.Tensor] = ()) -> Any:
        """Call host code that launches kernels on the tensors of ``memory``.

        function: anything that was linked against the simulated runtime, of
        ``ptxsim.compile_library`` say. Raises CheckError for what its kernels did wrong.
        """
        named = [(f"memory {i}", tensor) for i, tensor in enumerate(memory)]
        return self._with_memory(named, functools.partial(function, *args))

    def _call(self, name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        values = [*enumerate(args), *kwargs.items()]
        tensors = [
            (f"{name}: argument {key}", tensor) for key, v in values for tensor in _tensors(v)
        ]
        return self._with_memory(tensors, functools.partial(function, *args, **kwargs))

    def _with_memory(self, tensors: list[tuple[str, torch.Tensor]], call: Any) -> Any:
        sim = interpreter()
        begins = []
        error: BaseException | None = None
        result = None
        try:
            for begin, size, label in merged_spans(tensors):
                sim.gpu_add_memory(begin, size, label, True)
                begins.append(begin)
            result = call()
        except RuntimeError as failure:  # a launch that found mistakes fails as a CUDA launch does
            error = failure
        finally:
            for begin in begins:
                sim.gpu_remove_memory(begin)
            sim.gpu_forget_outputs()
        self._collect(error)
        return result

    def _collect(self, error: BaseException | None) -> None:
        reports: list[Report] = []
        for kernel, grid, block, found, rows in interpreter().gpu_take_launches():
            reports += [Report.from_dict(report) for report in found]
            stats = Stats(kernel, tuple(InstructionStats(*row) for row in rows))
            self.launches.append(Launch(kernel, tuple(grid), tuple(block), stats))
        if reports:
            raise CheckError(reports) from error
        if error is not None:
            raise error


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


@functools.cache
def _cuda_sim() -> Any:
    interpreter()
    try:
        from .. import _cuda_sim
    except ImportError:
        raise UnsupportedError(
            "simulated_gpu",
            ["this build has no CUDA kernels"],
            remedy="Build where nvcc is.",
        ) from None
    return _cuda_sim


@contextlib.contextmanager
def simulated_gpu(
    *,
    capability: tuple[int, int] = (9, 0),
    multiprocessors: int = 4,
    schedule: str = "random",
    seed: int = 0,
    races: bool = True,
    checks: bool = True,
    metrics: bool = True,
    workers: int = 1,
    instruction_limit: int = 1 << 34,
) -> Iterator[SimulatedGpu]:
    """Serve CPU tensors by the CUDA backend, run by the PTX interpreter.

    capability: of the device; its objects' newest PTX up to it runs. The other options are those
    of ``ptxsim.Module.launch``. An op with mistakes in its kernel raises CheckError; one without a
    CUDA kernel raises UnsupportedError. UnsupportedError where nothing was built for it.

        with simulated_gpu(schedule="reverse") as gpu:
            y = ops.rms_norm(x, weight)
        print(gpu.launches[0].stats)
    """
    _cuda_sim()
    interpreter().gpu_configure(
        *capability, multiprocessors, schedule, seed, races, checks, metrics, workers,
        instruction_limit,
    )  # fmt: skip
    gpu = SimulatedGpu()
    with backends.simulate(gpu):
        yield gpu
