"""CUDA sources to PTX, with the nvcc of the machine."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ... import env
from .module import Module

__all__ = ["compile", "compile_library", "compile_to_ptx", "find_nvcc"]


def find_nvcc() -> str | None:
    """$CUDACXX, $CUDA_HOME, the PATH, /usr/local/cuda, PyPI's toolkit; None: not found."""
    candidates = [*env.nvcc(), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    for folder in sys.path:
        candidates += [str(path) for path in sorted(Path(folder).glob("nvidia/cu1*/bin/nvcc"))]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def compile_to_ptx(
    path: str | os.PathLike[str],
    arch: str = "sm_80",
    *,
    include: Sequence[str | os.PathLike[str]] = (),
    defines: Sequence[str] = (),
    options: Sequence[str] = (),
) -> str:
    """The PTX of a .cu file with line information; RuntimeError with nvcc's message."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("no nvcc found: set CUDA_HOME, or pip install nvidia-cuda-nvcc")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.ptx"
        command = [nvcc, "-ptx", "-lineinfo", "-std=c++20", "-arch", f"compute_{_number(arch)}"]
        command += [f"-I{path}" for path in include] + [f"-D{define}" for define in defines]
        command += [*options, str(path), "-o", str(out)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{result.stderr}{result.stdout}")
        return out.read_text()


def compile(
    path: str | os.PathLike[str],
    arch: str = "sm_80",
    *,
    include: Sequence[str | os.PathLike[str]] = (),
    defines: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Module:
    """Compile a .cu file and load it.

    arch: "sm_80", "sm_90a" ...; ``options`` go to nvcc as they are.
    """
    return Module(compile_to_ptx(path, arch, include=include, defines=defines, options=options))


def compile_library(
    path: str | os.PathLike[str],
    arch: str,
    output: str | os.PathLike[str],
    *,
    include: Sequence[str | os.PathLike[str]] = (),
    options: Sequence[str] = (),
) -> ctypes.CDLL:
    """Compile a .cu file, host code included, into the library ``output`` and load it.

    It is linked against the simulated CUDA runtime: call its functions by ``SimulatedGpu.run``.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("no nvcc found: set CUDA_HOME, or pip install nvidia-cuda-nvcc")
    package = Path(__file__).resolve().parents[2]
    number = _number(arch)
    command = [nvcc, "-shared", "-Xcompiler", "-fPIC", "-cudart", "none", "--no-compress"]
    command += [
        "-lineinfo",
        "-std=c++17",
        "-gencode",
        f"arch=compute_{number},code=compute_{number}",
    ]
    command += [f"-I{folder}" for folder in include]
    command += [*options, str(path), "-o", str(output)]
    command += ["-Xlinker", str(package / "libptxsim.so.1"), "-Xlinker", f"-rpath={package}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}{result.stdout}")
    return ctypes.CDLL(str(output))


def _number(arch: str) -> str:
    return arch.removeprefix("sm_").removeprefix("compute_")
