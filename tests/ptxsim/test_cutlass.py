"""CUTLASS's grouped GEMM for sm_90a, host code included, runs right under every checker."""

import ctypes
import importlib.util
from pathlib import Path

import pytest
import torch

from mimo_native.testing import ptxsim, simulated_gpu

from .conftest import KERNELS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no simulated CUDA runtime",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    cutlass = importlib.util.find_spec("cutlass_library")
    if cutlass is None or cutlass.origin is None:
        pytest.skip("the headers of nvidia-cutlass are not installed")
    if ptxsim.find_nvcc() is None:
        pytest.skip("no nvcc found")
    source = Path(cutlass.origin).parent / "source"
    output = tmp_path_factory.mktemp("cutlass") / "libgrouped.so"
    return ptxsim.compile_library(
        KERNELS / "cutlass_grouped.cu", "sm_90a", output,
        include=[source / "include", source / "tools" / "util" / "include"],
        options=["--expt-relaxed-constexpr", "-O1", "-w"],
    )  # fmt: skip


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_grouped_gemm(library: ctypes.CDLL, schedule: str) -> None:
    sizes, n, k = [64, 37, 1, 100], 256, 128
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(sum(sizes), k, generator=generator).bfloat16()
    b = torch.randn(len(sizes), n, k, generator=generator).bfloat16()
    d = torch.zeros(sum(sizes), n, dtype=torch.bfloat16)
    rows = (ctypes.c_int * len(sizes))(*sizes)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, d)]
    with simulated_gpu(schedule=schedule) as gpu:
        assert gpu.run(library.run, *pointers, rows, len(sizes), n, k, memory=(a, b, d)) == 0
    opcodes = set(gpu.launches[-1].stats.opcodes)
    assert any(opcode.startswith("wgmma.mma_async") for opcode in opcodes)
    assert any(opcode.startswith("cp.async.bulk.tensor") for opcode in opcodes)
    start = 0
    for i, size in enumerate(sizes):
        part = slice(start, start + size)
        want = a[part].double() @ b[i].double().t()
        bound = a[part].double().abs() @ b[i].double().abs().t() * 1e-6 + want.abs() * 2.0**-8
        assert ((d[part].double() - want).abs() <= bound).all()
        start += size
