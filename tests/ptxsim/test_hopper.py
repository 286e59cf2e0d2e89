"""A Hopper GEMM, host code included: tensor copies, mbarriers, wgmma. Right, and with mistakes."""

import ctypes
import importlib.util

import pytest
import torch

from mimo_native.testing import ptxsim, simulated_gpu
from mimo_native.testing.ptxsim import CheckError

from .conftest import KERNELS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no simulated CUDA runtime",
)
SCHEDULES = [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if ptxsim.find_nvcc() is None:
        pytest.skip("no nvcc found")
    output = tmp_path_factory.mktemp("hopper") / "libhopper.so"
    return ptxsim.compile_library(KERNELS / "hopper.cu", "sm_90a", output)


def run(library: ctypes.CDLL, bug: int, schedule: str, seed: int) -> float:
    """The largest error."""
    generator = torch.Generator().manual_seed(0)
    rows, cols, depth = 100, 72, 512
    a = torch.randn(rows, depth, generator=generator).bfloat16()
    b = torch.randn(cols, depth, generator=generator).bfloat16()
    c = torch.zeros(rows, cols)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (a, b, c)]
    with simulated_gpu(schedule=schedule, seed=seed, instruction_limit=1 << 22) as gpu:
        status = gpu.run(library.run, bug, *pointers, rows, cols, depth, memory=(a, b, c))
    assert status == 0
    return (c.double() - a.double() @ b.double().t()).abs().max().item()


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
def test_right_and_silent(library: ctypes.CDLL, schedule: str, seed: int) -> None:
    assert run(library, 0, schedule, seed) < 1e-3


# number of the mistake in hopper.cu -> kinds of which one must be reported
MISTAKES = {
    1: {"race", "in flight"},
    2: {"race", "in flight", "deadlock", "uninitialised", "barrier arrivals"},
    4: {"race"},
    5: {"register in flight"},
    6: {"proxy"},
    7: {"in flight at exit"},
    8: {"race", "no barrier"},
    9: {"barrier arrivals"},
    10: {"in flight", "race", "deadlock", "in flight at exit"},
    11: {"no fence"},
    12: {"no fence"},
}


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize("bug", MISTAKES)
def test_the_mistake_is_found(library: ctypes.CDLL, bug: int, schedule: str, seed: int) -> None:
    with pytest.raises(CheckError) as caught:
        run(library, bug, schedule, seed)
    assert {report.kind for report in caught.value.reports} & MISTAKES[bug], str(caught.value)


def test_a_wrong_descriptor_gives_a_wrong_product(library: ctypes.CDLL) -> None:
    assert run(library, 3, "forward", 0) > 1
