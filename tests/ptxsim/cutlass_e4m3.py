"""CUTLASS's grouped GEMM with e4m3 operands and block scales, in the interpreter with all checks.

Not a test of the suite, for its one file takes half a minute of CPU time and 3.8 GB to compile:

python -m tests.ptxsim.cutlass_e4m3
"""

import argparse
import ctypes
import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from mimo_native.testing import ptxsim, simulated_gpu
from mimo_native.testing.ptxsim import CheckError

from ..tolerance import rounding_bound, sum_bound

__all__ = ["Problem", "compiled", "run"]

SOURCE = Path(__file__).parent / "kernels" / "cutlass_grouped_e4m3.cu"
BLOCK = 128
C = 4.0  # of the bound; a sum of K products and its scales


def quantised(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Codes and scales of blocks, which span ``dims``."""
    scale = x.abs().amax(dims, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn), scale


class Problem:
    """Rows of ``sizes``, [sum, k], times weights [groups, n, k]; rows differ in magnitude."""

    def __init__(self, sizes: tuple[int, ...], n: int, k: int) -> None:
        self.sizes, self.n, self.k = sizes, n, k
        gen = torch.Generator().manual_seed(k)
        x = torch.randn(sum(sizes), k // BLOCK, BLOCK, generator=gen)
        x *= 4 * torch.rand(sum(sizes), 1, 1, generator=gen)
        w = torch.randn(len(sizes), n // BLOCK, BLOCK, k // BLOCK, BLOCK, generator=gen) / 16
        self.x, self.x_scale = quantised(x, (2,))
        self.w, self.w_scale = quantised(w, (2, 4))
        self.y = torch.full((sum(sizes), n), torch.nan, dtype=torch.bfloat16)

    def arguments(self) -> list[Tensor]:
        scales = [part[:, :, 0].T.flatten() for part in self.x_scale.split(self.sizes)]
        codes = (t.view(torch.uint8) for t in (self.x, self.w))
        return [*codes, self.y, torch.cat(scales), self.w_scale.flatten()]

    def error(self) -> float:
        """The largest error, in parts of what is allowed."""
        x = (self.x.double() * self.x_scale).flatten(1)
        w = (self.w.double() * self.w_scale).flatten(3).flatten(1, 2)
        pairs = zip(x.split(self.sizes), w, strict=True)
        want, magnitude = map(
            torch.cat, zip(*((a @ b.T, a.abs() @ b.abs().T) for a, b in pairs), strict=True)
        )
        bound = rounding_bound(want, sum_bound(magnitude, self.k, c=C), torch.bfloat16)
        return float(((self.y.double() - want).abs() / bound).max())


def compiled(output: Path) -> ctypes.CDLL:
    """The library; RuntimeError where nvcc or CUTLASS's headers are missing."""
    spec = importlib.util.find_spec("cutlass_library")
    if spec is None or spec.origin is None:
        raise RuntimeError("no headers of CUTLASS: pip install nvidia-cutlass==4.2.0.0")
    source = Path(spec.origin).parent / "source"
    include = [source / "include", source / "tools" / "util" / "include"]
    # With assertions wgmma is serialised, and registers spill: they are calls.
    options = ["--expt-relaxed-constexpr", "-O3", "-w", "-DNDEBUG"]
    return ptxsim.compile_library(SOURCE, "sm_90a", output, include=include, options=options)


def run(library: ctypes.CDLL, problem: Problem, schedule: str) -> float:
    """Its ``error``; CheckError for whatever a checker finds, but for one thing.

    CUTLASS reads a scale for every row of a tile. Of rows that a group has not got nobody wrote
    one, and nothing is stored of what comes of it.
    """
    tensors = problem.arguments()
    sizes = (ctypes.c_int * len(problem.sizes))(*problem.sizes)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
    with simulated_gpu(schedule=schedule) as gpu:
        call = (library.run, *pointers, sizes, len(problem.sizes), problem.n, problem.k)
        try:
            if status := gpu.run(*call, memory=tensors):
                raise RuntimeError(f"CUTLASS refuses it: step {status}")
        except CheckError as error:
            partial = any(size % BLOCK for size in problem.sizes)
            if not partial or {r.kind for r in error.reports} != {"uninitialised"}:
                raise
            if any("ld.shared.f32" not in str(report) for report in error.reports):
                raise
    stats = gpu.launches[-1].stats
    assert any("e4m3.e4m3" in opcode for opcode in stats.opcodes)
    assert stats.bank_conflicts == 0
    return problem.error()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, help="keep it here, and use what is there")
    path = parser.parse_args().library or Path(tempfile.mkdtemp()) / "libe4m3.so"
    library = ctypes.CDLL(str(path)) if path.exists() else compiled(path)
    for sizes, n, k in (((64, 37, 1, 100, 0, 130), 256, 256), ((128, 256), 384, 640)):
        for schedule in ("forward", "reverse", "random"):
            error = run(library, Problem(sizes, n, k), schedule)
            print(f"groups {sizes}, n {n}, k {k}, {schedule}: {error:.3f} of the bound")
            assert error <= 1


if __name__ == "__main__":
    main()
