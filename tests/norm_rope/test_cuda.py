"""RMSNorm's CUDA kernels and launcher on the simulated GPU, under every checker."""

import importlib.util

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import simulated_gpu

from ..case import check_case
from .cases import CASES, RmsNormCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
NORMS = [case for case in CASES if isinstance(case, RmsNormCase)]


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("case", NORMS, ids=str)
def test_against_float64(case: RmsNormCase, capability: tuple[int, int], schedule: str) -> None:
    def on_gpu(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
        with simulated_gpu(capability=capability, schedule=schedule) as gpu:
            y = ops.rms_norm(x, weight, eps=eps)
        assert len(gpu.launches) == (x.numel() > 0)
        assert all(launch.stats.bank_conflicts == 0 for launch in gpu.launches)
        return y

    check_case(case, on_gpu)


def test_wide_rows_are_read_in_whole_sectors() -> None:
    x, weight = torch.randn(8, 1024), torch.randn(1024)
    with simulated_gpu() as gpu:
        ops.rms_norm(x, weight)
    stats = gpu.launches[0].stats
    assert stats.global_sectors * 32 == stats.global_bytes


def test_an_op_without_a_cuda_kernel_is_refused() -> None:
    with simulated_gpu(), pytest.raises(mn.UnsupportedError, match="cuda: has no kernel"):
        ops.rope_table(torch.arange(3), theta=1e4, rotary_dim=4)
    ops.rope_table(torch.arange(3), theta=1e4, rotary_dim=4)


def test_bad_input_is_refused_before_any_launch() -> None:
    with simulated_gpu() as gpu, pytest.raises(mn.ShapeError, match="weight"):
        ops.rms_norm(torch.randn(4, 8), torch.ones(7))
    assert not gpu.launches
