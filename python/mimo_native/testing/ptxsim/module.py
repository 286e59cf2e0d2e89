"""A PTX module and the launch of its kernels."""

import re
from collections.abc import Sequence
from types import ModuleType

import torch

from ...errors import UnsupportedError
from .arguments import Argument, Output, memory_span, pack
from .report import CheckError, Report
from .stats import InstructionStats, Stats

__all__ = ["Module"]

Dims = int | Sequence[int]


def _triple(dims: Dims, what: str) -> tuple[int, int, int]:
    values = (dims,) if isinstance(dims, int) else tuple(dims)
    if not 1 <= len(values) <= 3:
        raise ValueError(f"{what}: expected one to three numbers, got {dims!r}")
    return (*values, *([1] * (3 - len(values))))  # type: ignore[return-value]


def interpreter() -> ModuleType:
    """The extension module; UnsupportedError in a build without it."""
    try:
        from ... import _ptxsim
    except ImportError:
        raise UnsupportedError(
            "ptxsim",
            ["this build has no PTX interpreter"],
            remedy="Build with MIMO_PTXSIM=ON, or where nvcc is.",
        ) from None
    return _ptxsim


class Module:
    """Loaded PTX.

    ptx: the text. Opcodes that the interpreter does not know are listed in ``unsupported`` (with
    their number) and stop a launch that reaches one.
    """

    def __init__(self, ptx: str) -> None:
        self._module = interpreter().Module(ptx)
        self.ptx = ptx

    @property
    def kernels(self) -> list[str]:
        return self._module.kernels

    def parameters(self, kernel: str) -> int:
        """How many parameters a kernel has."""
        return len(self._module.describe(self.find(kernel))["params"])

    @property
    def unsupported(self) -> dict[str, int]:
        return self._module.unsupported

    def find(self, name: str) -> str:
        """The kernel called ``name`` (C++ or mangled), or the only one whose name contains it."""
        if name in self.kernels:
            return name
        called = [k for k in self.kernels if re.search(rf"(?<!\d){len(name)}{re.escape(name)}", k)]
        matches = called or [kernel for kernel in self.kernels if name in kernel]
        if len(matches) != 1:
            found = "several kernels are" if matches else "no kernel is"
            raise KeyError(f"{found} called {name!r}; there are: {', '.join(self.kernels)}")
        return matches[0]

    def launch(
        self,
        kernel: str,
        grid: Dims,
        block: Dims,
        args: Sequence[Argument],
        *,
        smem_bytes: int = 0,
        cluster: Dims | None = None,
        memory: Sequence[torch.Tensor | Output] = (),
        schedule: str = "random",
        seed: int = 0,
        races: bool = True,
        checks: bool = True,
        metrics: bool = True,
        workers: int = 1,
        instruction_limit: int = 1 << 34,
    ) -> Stats:
        """Run a kernel; the tensors are used in place.

        args: torch CPU tensors (their address is passed; ``Output(tensor)`` for one that must not
        be read before it is written), numbers, and bytes or ctypes structures by value.
        memory: further tensors that the kernel reaches by addresses inside such structures.
        smem_bytes: dynamic shared memory. cluster: defaults to what the kernel declares, else 1.
        schedule: "forward", "reverse", or "random" by ``seed``.
        workers: threads that run blocks. With more than one the order of blocks, and so a failure
        that depends on it, is no longer repeated by the seed.
        races, checks: turn the race detector, and the checks of bounds and initialisation, off.

        Raises CheckError if anything was found, ValueError for arguments or a shape that do not
        fit.
        """
        kernel = self.find(kernel)
        about = self._module.describe(kernel)
        if cluster is None:
            cluster = about["cluster"] if all(about["cluster"]) else (1, 1, 1)
        registry = interpreter().Memory()
        for i, value in enumerate([*args, *memory]):
            tensor = value.tensor if isinstance(value, Output) else value
            if not isinstance(tensor, torch.Tensor):
                continue
            begin, size = memory_span(tensor)
            name = f"argument {i}" if i < len(args) else f"memory {i - len(args)}"
            fresh = isinstance(value, Output)
            if size and not registry.add(begin, size, name, True, not fresh):
                raise ValueError(f"{name} overlaps another tensor in part")
        reports, rows = self._module.launch(
            kernel,
            _triple(grid, "grid"),
            _triple(block, "block"),
            _triple(cluster, "cluster"),
            smem_bytes,
            pack(args, about["params"], about["param_bytes"]),
            registry,
            schedule,
            seed,
            races,
            checks,
            metrics,
            workers,
            instruction_limit,
        )
        if reports:
            raise CheckError([Report.from_dict(report) for report in reports])
        return Stats(kernel, tuple(InstructionStats(*row) for row in rows))
