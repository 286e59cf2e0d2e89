"""Every environment variable the package reads, typed and checked, in one place."""

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import UnsupportedError

__all__ = ["VARIABLES", "cache_dir", "isa", "nvcc", "openmp", "world_size"]

VARIABLES = {
    "CUDACXX": "the nvcc that makes PTX for the interpreter",
    "CUDA_HOME": "a CUDA toolkit with that nvcc in bin/; CUDA_PATH means the same",
    "CUDA_PATH": "see CUDA_HOME",
    "MIMO_NATIVE_ISA": "instruction-set level of the CPU kernels instead of this CPU's best",
    "PTXSIM_LEVEL": "portable or avx512: the PTX interpreter's lane handlers",
    "WORLD_SIZE": "processes of a training run, as torchrun sets it (default 1)",
    "XDG_CACHE_HOME": "where downloaded models go, under mimo_native/ (default ~/.cache)",
}

# Read by the OpenMP runtime, not by the package; they decide how the kernels' threads behave.
_OPENMP_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_SPINCOUNT")


def openmp() -> dict[str, str]:
    """The variables of the OpenMP runtime that are set."""
    return {name: os.environ[name] for name in _OPENMP_VARIABLES if name in os.environ}


def isa(available: Sequence[str]) -> str | None:
    """``MIMO_NATIVE_ISA``, None where unset. Raises UnsupportedError for a level not available."""
    level = os.environ.get("MIMO_NATIVE_ISA") or None
    if level is None or level in available:
        return level
    raise UnsupportedError(
        "environment",
        [f"MIMO_NATIVE_ISA={level} is not a level of this CPU and build: {', '.join(available)}"],
        remedy="Set one of these, or unset it to use the best.",
    )


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/mimo_native``; ``~/.cache/mimo_native`` where that is unset or relative."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "mimo_native"


def nvcc() -> list[str]:
    """Compilers that ``CUDACXX``, ``CUDA_HOME`` and ``CUDA_PATH`` name, in this order."""
    roots = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    named = [os.environ.get("CUDACXX"), *(f"{root}/bin/nvcc" for root in roots if root)]
    return [path for path in named if path]


def world_size() -> int:
    """``WORLD_SIZE``, 1 where unset. Raises UnsupportedError for what is not a positive number."""
    text = os.environ.get("WORLD_SIZE") or "1"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UnsupportedError(
        "environment",
        [f"WORLD_SIZE={text} is not a number of processes"],
        remedy="Let torchrun set it, or unset it.",
    )
