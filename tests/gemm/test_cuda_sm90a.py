"""The grouped product of CUTLASS for sm_90a, launcher included, on the simulated GPU."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

from mimo_native import ops
from mimo_native.testing import SimulatedGpu, ptxsim, simulated_gpu
from mimo_native.testing.ptxsim.module import interpreter

from ..case import check_case, normal
from .cases import GroupedGemmCase

BF16 = torch.bfloat16


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if importlib.util.find_spec("mimo_native._cuda_sim") is None:
        pytest.skip("built without nvcc: no CUDA kernels")
    from mimo_native._build_info import BUILD_INFO

    if "90a by CUTLASS" not in BUILD_INFO["cuda"]:
        pytest.skip(f"built without CUTLASS: {BUILD_INFO['cuda']}")


def by_cutlass(gpu: SimulatedGpu) -> bool:
    opcodes = {opcode for launch in gpu.launches for opcode in launch.stats.opcodes}
    wgmma = any(opcode.startswith("wgmma.mma_async") for opcode in opcodes)
    assert wgmma == any(opcode.startswith("cp.async.bulk.tensor") for opcode in opcodes)
    return wgmma


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("sizes", "n", "k"),
    [((0, 230, 0, 1, 70, 200, 0), 136, 200), ((300,), 8, 8), ((64, 65), 264, 64)],
)
def test_against_float64(sizes: tuple[int, ...], n: int, k: int, schedule: str) -> None:
    def on_gpu(**args: object) -> torch.Tensor:
        with simulated_gpu(capability=(9, 0), multiprocessors=2, schedule=schedule) as gpu:
            y = ops.grouped_gemm(**args)
        assert by_cutlass(gpu)
        return y

    check_case(GroupedGemmCase(sizes=sizes, n=n, k=k, dtype=BF16), on_gpu)


@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_sizes_that_do_not_fit_read_and_write_no_foreign_row(integer: torch.dtype) -> None:
    x, w = normal(300, 16, seed=0, dtype=BF16), normal(3, 8, 16, seed=1, dtype=BF16)
    for sizes, fit in (((150, 0, 60), (150, 0, 60)), ((200, 200, 200), (200, 100, 0)),
                       ((-4, 80, 1), (0, 80, 1))):  # fmt: skip
        with simulated_gpu(multiprocessors=1) as gpu:
            y = ops.grouped_gemm(x, w, torch.tensor(sizes, dtype=integer))
        assert by_cutlass(gpu)
        used = sum(fit)
        want = ops.grouped_gemm(x[:used], w, torch.tensor(fit))
        torch.testing.assert_close(y[:used], want, rtol=2.0**-7, atol=1e-3)
        assert torch.equal(y[used:], torch.zeros(300 - used, 8, dtype=BF16))


def test_strided_rows_and_weights() -> None:
    x = normal(200, 64, seed=0, dtype=BF16)[:, 8:40]
    w = normal(2, 24, 48, seed=1, dtype=BF16)[:, 8:, 16:]
    sizes = torch.tensor((120, 80))
    with simulated_gpu(multiprocessors=1) as gpu:
        y = ops.grouped_gemm(x, w, sizes)
    assert by_cutlass(gpu)
    torch.testing.assert_close(y, ops.grouped_gemm(x, w, sizes), rtol=2.0**-7, atol=1e-3)


def test_where_the_portable_kernel_serves() -> None:
    sizes = torch.tensor((120, 80))
    x, w = normal(200, 40, seed=0, dtype=BF16), normal(2, 24, 40, seed=1, dtype=BF16)
    cases = {
        "another device": (x, w, (8, 0)),
        "few rows": (x[:20], w, (9, 0)),
        "float32": (x.float(), w.float(), (9, 0)),
        "inputs not aligned": (x[:, :33], w[..., :33], (9, 0)),
        "outputs not aligned": (x, w[:, :20], (9, 0)),
    }
    for why, (rows, weights, capability) in cases.items():
        fit = sizes if len(rows) == 200 else torch.tensor((12, 8))
        with simulated_gpu(capability=capability, multiprocessors=1) as gpu:
            ops.grouped_gemm(rows, weights, fit)
        assert not by_cutlass(gpu), why


def test_ptxas_neither_serialises_wgmma_nor_adds_fences(tmp_path: Path) -> None:
    """It says so where it must; nothing is said of the PTX that ships."""
    nvcc = ptxsim.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc found")
    ptxas = Path(nvcc).resolve().with_name("ptxas")
    with simulated_gpu(capability=(9, 0)):
        (text,) = (text for _, text in interpreter().gpu_images() if "describe_groups" in text)
    assert "wgmma.mma_async" in text

    def remarks(ptx: str) -> str:
        source = tmp_path / "kernel.ptx"
        source.write_text(ptx)
        command = [ptxas, "-arch=sm_90a", "-o", tmp_path / "kernel.cubin", source]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    assert "GMMA" in remarks(text.replace("wgmma.fence.sync.aligned;", ""))
    assert remarks(text) == ""
