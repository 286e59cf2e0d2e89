"""Run CUDA kernels on the CPU from their PTX, and check them while they run.

    module = ptxsim.compile("saxpy.cu", "sm_80")
    module.launch("saxpy", grid=4, block=256, args=[n, 2.0, x, y])      # x, y: torch CPU tensors

A launch raises CheckError, with ``.reports``, for races, accesses out of bounds, misaligned or
uninitialised reads, divergent synchronisation and deadlocks. It returns ``Stats``: instruction
counts, bank conflicts and memory sectors, counted without a clock. docs/ptxsim.md says what it can
and cannot show.
"""

from .arguments import Output
from .compiler import compile, compile_library, compile_to_ptx, find_nvcc
from .module import Module
from .report import CheckError, Report
from .stats import Stats

__all__ = [
    "CheckError",
    "Module",
    "Output",
    "Report",
    "Stats",
    "compile",
    "compile_library",
    "compile_to_ptx",
    "find_nvcc",
]
