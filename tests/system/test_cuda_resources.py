"""Registers, stack and shared memory of the CUDA kernels that ship."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mimo_native.testing import ptxsim
from mimo_native.testing.cubin import KernelResources, kernel_resources, readable

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "csrc" / "runtime" / "cuda" / "KERNELS.md"
SPILLS = """
extern "C" __global__ void roomy(float* x) { x[threadIdx.x] *= 2.f; }
extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* x, int n) {
  __shared__ float tile[100];
  float sum[64] = {};
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < 64; ++j) sum[j] = sum[j] * x[i] + x[j];
  tile[threadIdx.x % 100] = sum[0];
  __syncthreads();
  sum[1] += tile[n];
  for (int j = 0; j < 64; ++j) x[threadIdx.x * 64 + j] = sum[j];
}
"""


@pytest.fixture(scope="module")
def kernels() -> list[KernelResources]:
    module = importlib.util.find_spec("mimo_native._cuda")
    if module is None or module.origin is None:
        pytest.skip("built without nvcc: no CUDA kernels")
    return kernel_resources(module.origin)


# cosf and sinf look up the digits of 2 / pi in local memory when an angle is large.
WITH_A_STACK = {"rope_table_kernel"}


def test_nothing_is_spilled(kernels: list[KernelResources]) -> None:
    assert {kernel.architecture for kernel in kernels} >= {80, 90}
    assert len(kernels) > 50
    stacks = [kernel for kernel in kernels if kernel.stack_bytes]
    assert not [k for k in stacks if not any(name in k.name for name in WITH_A_STACK)]


def test_no_kernel_takes_more_registers_than_the_table_says(
    kernels: list[KernelResources],
) -> None:
    """The table is that of one version of ptxas; another may well need a few more."""
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt")
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", TABLE.read_text(), re.MULTILINE)
    known = {name: [int(n or 0) for n in cells.split(" | ")] for name, cells in rows}
    names = readable(sorted({kernel.name for kernel in kernels}))
    assert len(known) > 30
    grown = []
    for kernel in kernels:
        if names[kernel.name] in known:
            limit = known[names[kernel.name]][0 if kernel.architecture == 80 else 2]
            if kernel.registers > limit * 1.1 + 2:
                grown.append((names[kernel.name], kernel.architecture, kernel.registers, limit))
    assert not grown, "python -m mimo_native.testing.cubin writes the table"


def test_the_reader_sees_spills_registers_and_shared_memory(tmp_path: Path) -> None:
    nvcc = ptxsim.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc found")
    source, cubin = tmp_path / "spills.cu", tmp_path / "spills.cubin"
    source.write_text(SPILLS)
    command = [nvcc, "-cubin", "-arch=sm_80", "-Xptxas=-v", "-o", str(cubin), str(source)]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = {kernel.name: kernel for kernel in kernel_resources(cubin)}
    assert found["roomy"].stack_bytes == 0 < found["spills"].stack_bytes
    assert found["spills"].shared_bytes == 400
    for name, kernel in found.items():
        said = re.search(rf"Function properties for {name}\n.*\n.*Used (\d+) registers", log)
        assert said is not None
        assert kernel.registers == int(said[1])
        assert kernel.architecture == 80
