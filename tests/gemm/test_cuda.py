"""The CUDA kernels of linear and grouped_gemm on the simulated GPU, under every checker."""

import importlib.util

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import SimulatedGpu, simulated_gpu

from ..case import Case, check_case, normal
from .cases import CASES, GroupedGemmCase, LinearCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
BF16, F32 = torch.bfloat16, torch.float32
# Enough tiles for the largest of them, full and ragged; and every output of either dtype.
TILES = [
    *(LinearCase(m=m, n=n, k=k, dtype=t) for t in (BF16, F32)
      for m, n, k in ((128, 128, 192), (150, 136, 200), (70, 264, 72), (17, 33, 264), (9, 5, 8))),
    *(LinearCase(m=m, n=130, k=96, dtype=BF16, out_dtype=F32) for m in (3, 40, 150)),
    *(LinearCase(m=m, n=40, k=96, out_dtype=BF16) for m in (3, 40)),
    LinearCase(m=3, n=40, k=97, out_dtype=BF16),
    *(GroupedGemmCase(sizes=sizes, n=40, k=72, dtype=t) for t in (BF16, F32)
      for sizes in ((100, 0, 129, 70), (0, 16, 17, 0, 1), (5, 0, 300))),
]  # fmt: skip


def run(case: Case, schedule: str, **options: object) -> None:
    def on_gpu(**args: object) -> Tensor:
        with simulated_gpu(schedule=schedule, **options) as gpu:
            y = getattr(ops, case.op)(**args)
        if case.op == "linear" or options["capability"] == (8, 0):  # not CUTLASS's
            assert len(gpu.launches) == (y.numel() > 0) * (1 if case.op == "linear" else 2)
            assert all(launch.stats.bank_conflicts == 0 for launch in gpu.launches)
        return y

    check_case(case, on_gpu)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case: Case, schedule: str) -> None:
    run(case, schedule, capability=(8, 0))


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", TILES, ids=str)
def test_every_tile_against_float64(case: Case, schedule: str) -> None:
    run(case, schedule, capability=(8, 0), multiprocessors=1)


@pytest.mark.parametrize("case", [*CASES, *TILES], ids=str)
def test_ptx_of_sm_90(case: Case) -> None:
    run(case, "random", capability=(9, 0), multiprocessors=1)


def linear_on_gpu(x: Tensor, w: Tensor, **options: object) -> tuple[Tensor, SimulatedGpu]:
    with simulated_gpu(multiprocessors=1) as gpu:
        return ops.linear(x, w, **options), gpu


def test_bf16_rows_for_float32_weights() -> None:
    for m, k in ((2, 64), (20, 64), (20, 37)):
        x, w = normal(m, k, seed=m, dtype=BF16), normal(33, k, seed=1, dtype=F32)
        for out in (F32, BF16):
            y, _ = linear_on_gpu(x, w, out_dtype=out)
            torch.testing.assert_close(y, ops.linear(x, w, out_dtype=out), rtol=0, atol=0)


def test_float32_sums_have_the_bits_of_the_cpu() -> None:
    for m, n, k in ((1, 40, 300), (70, 65, 129)):
        x, w = normal(m, k, seed=m, dtype=F32), normal(n, k, seed=1, dtype=F32)
        assert torch.equal(linear_on_gpu(x, w)[0], ops.linear(x, w))


def test_a_row_has_the_same_bits_in_every_tile() -> None:
    w = normal(136, 200, seed=0, dtype=BF16)
    x = normal(150, 200, seed=1, dtype=BF16)
    whole, gpu = linear_on_gpu(x, w, out_dtype=F32)
    some, other = linear_on_gpu(x[:20], w, out_dtype=F32)
    one, third = linear_on_gpu(x[19:20], w, out_dtype=F32)
    assert len({g.launches[0].kernel for g in (gpu, other, third)}) == 3
    assert torch.equal(some, whole[:20])
    assert torch.equal(one, whole[19:20])


def test_strided_rows_and_weights() -> None:
    for dtype in (BF16, F32):
        x = normal(5, 3, 64, seed=0, dtype=dtype)[:, 1, :24]
        w = normal(40, 96, seed=1, dtype=dtype)[:, 8:32]
        want = x.contiguous().double() @ w.contiguous().double().T
        torch.testing.assert_close(linear_on_gpu(x, w)[0].double(), want, rtol=1e-2, atol=1e-2)
        x, w = x[:, 1:20], w[1:, 1:20]  # nothing lies at a multiple of 16 bytes
        want = x.contiguous().double() @ w.contiguous().double().T
        torch.testing.assert_close(linear_on_gpu(x, w)[0].double(), want, rtol=1e-2, atol=1e-2)


def test_no_groups_make_zeros() -> None:
    with simulated_gpu():
        y = ops.grouped_gemm(
            torch.ones(5, 8), torch.empty(0, 3, 8), torch.empty(0, dtype=torch.int64)
        )
    assert torch.equal(y, torch.zeros(5, 3))


def test_no_inputs_make_zeros() -> None:
    for m in (1, 20, 150):
        for dtype in (BF16, F32):
            y, _ = linear_on_gpu(torch.empty(m, 0, dtype=dtype), torch.empty(9, 0, dtype=dtype))
            assert torch.equal(y, torch.zeros(m, 9, dtype=dtype))


@pytest.mark.parametrize("integer", [torch.int32, torch.int64])
def test_sizes_that_do_not_fit_read_and_write_no_foreign_row(integer: torch.dtype) -> None:
    x, w = normal(30, 16, seed=0, dtype=BF16), normal(3, 8, 16, seed=1, dtype=BF16)
    for sizes, fit in (((5, 0, 6), (5, 0, 6)), ((20, 20, 20), (20, 10, 0)), ((-4, 8, 1), (0, 8, 1)),
                       ((2**31 - 1, 1, 2**31 - 1), (30, 0, 0))):  # fmt: skip
        with simulated_gpu():
            y = ops.grouped_gemm(x, w, torch.tensor(sizes, dtype=integer))
        used = sum(fit)
        want = ops.grouped_gemm(x[:used], w, torch.tensor(fit))
        torch.testing.assert_close(y[:used], want, rtol=2.0**-7, atol=1e-3)
        assert torch.equal(y[used:], torch.zeros(30 - used, 8, dtype=BF16))


def test_rows_come_in_whole_sectors() -> None:
    for m, columns in ((16, 32), (64, 64), (128, 128)):
        x, w = normal(m, 256, seed=0, dtype=BF16), normal(256, 256, seed=1, dtype=BF16)
        _, gpu = linear_on_gpu(x, w)
        stats = gpu.launches[0].stats
        copies = [i for i in stats.instructions if i.opcode.startswith("cp.async.cg")]
        # A block of m rows and some columns reads each of its rows of 256 values once.
        assert sum(i.sectors for i in copies) * 32 == 256 // columns * (m + columns) * 512
        assert stats.opcodes["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] > 0


@pytest.mark.parametrize(
    ("rows", "outputs", "groups", "bf16", "processors", "tile"),
    [
        (1, 4096, 1, True, 132, "16 x 32"),
        (16, 4096, 1, True, 132, "16 x 32"),
        (17, 4096, 1, True, 132, "64 x 64"),
        (512, 512, 1, True, 132, "64 x 64"),  # 16 large tiles would leave processors idle
        (4096, 4096, 1, True, 132, "128 x 128"),
        (64, 4096, 256, True, 132, "16 x 32"),
        (32768, 4096, 256, True, 132, "128 x 128"),
        (8192, 4096, 256, True, 132, "64 x 64"),
        (8, 256, 1, False, 132, "8 x 32"),
        (9, 256, 1, False, 132, "64 x 64"),
    ],
)
def test_plan(rows: int, outputs: int, groups: int, bf16: bool, processors: int, tile: str) -> None:
    from mimo_native import _cuda_sim

    _, text = _cuda_sim.gemm_plan(rows, outputs, 4096, groups, bf16, processors)
    assert f"tiles of {tile}," in text
    assert text.endswith("copies of 16 bytes")


def test_what_the_kernels_do_not_serve_is_refused_before_any_launch() -> None:
    x, w = normal(4, 64, seed=0, dtype=BF16), normal(8, 64, seed=1, dtype=BF16)
    with simulated_gpu() as gpu:
        with pytest.raises(mn.UnsupportedError, match="cuda: takes no packed weight"):
            ops.linear(x, ops.pack(w))
        with pytest.raises(mn.UnsupportedError, match="float64 is not one of"):
            ops.linear(x.double(), w.double())
        with pytest.raises(mn.UnsupportedError, match="cuda: has no backward"):
            ops.linear(x.requires_grad_(), w)
        with pytest.raises(mn.UnsupportedError, match="at most 1023 groups, got 1024"):
            ops.grouped_gemm(
                x.detach(), w.expand(1024, 8, 64), torch.zeros(1024, dtype=torch.int32)
            )
        with pytest.raises(mn.ShapeError, match="last dimension of K = 64"):
            ops.linear(x.detach()[:, :63], w)
        with pytest.raises(mn.ShapeError, match="group_sizes"):
            ops.grouped_gemm(x.detach(), w[None], torch.zeros(2, dtype=torch.int32))
    assert not gpu.launches
