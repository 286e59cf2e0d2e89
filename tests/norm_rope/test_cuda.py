"""The family's CUDA kernels and launchers on the simulated GPU, under every checker."""

import importlib.util

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import simulated_gpu

from ..case import check_case
from .cases import CASES, RmsNormCase, RopeCase, RopeTableCase

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


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if isinstance(case, RopeCase | RopeTableCase)], ids=str
)
def test_rope_against_float64(case: RopeCase | RopeTableCase, schedule: str) -> None:
    def on_gpu(**args: object) -> object:
        with simulated_gpu(capability=(8, 0), schedule=schedule) as gpu:
            out = getattr(ops, case.op)(**args)
        tokens = case.tokens if isinstance(case, RopeCase) else len(case.positions)
        assert len(gpu.launches) == (tokens > 0)
        return out

    check_case(case, on_gpu)


def test_the_table_is_that_of_the_cpu() -> None:
    positions = torch.arange(0, 262_144, 5_041)
    with simulated_gpu(capability=(8, 0)):
        table = ops.rope_table(positions, theta=5e6, rotary_dim=64)
    assert torch.equal(table, ops.rope_table(positions, theta=5e6, rotary_dim=64))


def test_a_table_too_wide_for_a_launch_is_refused() -> None:
    with simulated_gpu() as gpu, pytest.raises(mn.UnsupportedError, match="rotary_dim of 512"):
        ops.rope_table(torch.arange(3), theta=1e4, rotary_dim=514)
    assert not gpu.launches


def test_heads_are_written_in_whole_sectors() -> None:
    q, k, v = torch.randn(3, 16, 192), torch.randn(3, 2, 192), torch.randn(3, 2, 128)
    table = torch.randn(3, 64)
    with simulated_gpu(capability=(8, 0)) as gpu:
        ops.rope(*(t.bfloat16() for t in (q, k, v)), table)
    stores = [i for i in gpu.launches[0].stats.instructions if i.opcode.startswith("st.global")]
    assert sum(i.bytes for i in stores) == 2 * (q.numel() + k.numel() + v.numel())
    assert all(i.sectors * 32 == i.bytes for i in stores)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"table": torch.ones(4, 10)}, "table"),
        ({"k": torch.ones(4, 1, 9)}, "k"),
        ({"v": torch.ones(4, 1, 8)[..., ::2]}, "v"),
    ],
)
def test_bad_rope_is_refused_before_any_launch(change: dict, argument: str) -> None:
    args = {"q": torch.ones(4, 2, 8), "k": torch.ones(4, 1, 8), "v": torch.ones(4, 1, 8)}
    args |= {"table": torch.ones(4, 8)} | change
    with simulated_gpu() as gpu, pytest.raises(mn.ShapeError) as caught:
        ops.rope(**args)
    assert caught.value.argument == argument
    assert not gpu.launches


def test_an_op_without_a_cuda_kernel_is_refused() -> None:
    x, weight, targets = torch.ones(2, 4), torch.ones(8, 4), torch.tensor([1, 5])
    with simulated_gpu(), pytest.raises(mn.UnsupportedError, match="cuda: has no kernel"):
        ops.linear_cross_entropy(x, weight, targets)
    ops.linear_cross_entropy(x, weight, targets)


def test_bad_input_is_refused_before_any_launch() -> None:
    with simulated_gpu() as gpu, pytest.raises(mn.ShapeError, match="weight"):
        ops.rms_norm(torch.randn(4, 8), torch.ones(7))
    assert not gpu.launches
