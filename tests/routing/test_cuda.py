"""The CUDA router on the simulated GPU, under every checker."""

import importlib.util

import pytest
import torch

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import simulated_gpu

from ..case import check_case
from .cases import CASES, RouteCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)


def run(case: RouteCase, **options: object) -> None:
    def on_gpu(**args: object) -> object:
        with simulated_gpu(**options) as gpu:
            result = ops.route(**args)
        assert len(gpu.launches) == (case.tokens > 0) + case.return_stats
        assert all(launch.stats.bank_conflicts == 0 for launch in gpu.launches)
        return result

    check_case(case, on_gpu)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case: RouteCase, schedule: str) -> None:
    run(case, schedule=schedule, capability=(8, 0))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ptx_of_sm_90(case: RouteCase) -> None:
    run(case, capability=(9, 0))


def test_choices_are_those_of_the_cpu_on_equal_keys() -> None:
    """Keys from few values, zeros of both signs and -inf among them."""
    gen = torch.Generator().manual_seed(0)
    values = torch.tensor([-torch.inf, -200.0, -1.0, 0.0, 0.5])
    logits = values[torch.randint(5, (40, 96), generator=gen)]
    bias = torch.tensor([0.0, -0.0, -torch.inf, 0.25])[torch.randint(4, (96,), generator=gen)]
    for options in ({}, {"n_group": 8, "topk_group": 3}):
        with simulated_gpu():
            ids, weights = ops.route(logits, bias=bias, top_k=8, **options)
        want_ids, want = ops.route(logits, bias=bias, top_k=8, **options)
        assert torch.equal(ids, want_ids)
        torch.testing.assert_close(weights, want)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_replayed_ids_of_every_dtype_and_stride(dtype: torch.dtype) -> None:
    logits = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    given = torch.rand(9, 40, generator=torch.Generator().manual_seed(1)).argsort(-1)[:, :12]
    given = given.to(dtype)[:, :5]
    with simulated_gpu():
        ids, weights = ops.route(logits[:, :36], top_k=5, replay_ids=given % 36)
        logits_ids, _ = ops.route(logits, top_k=5, replay_ids=given)
    assert torch.equal(ids, (given % 36).int())
    assert torch.equal(logits_ids, given.int())
    scores = logits[:, :36].sigmoid().gather(1, (given % 36).long())
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True))


def test_what_is_no_number_or_no_expert_shows_in_the_weights() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    logits[2, 11] = torch.nan
    logits[4] = torch.nan
    with simulated_gpu():
        ids, weights = ops.route(logits, top_k=4, scaling=2.0)
        given = torch.tensor([[0, 1], [40, 2], [3, 4], [5, 6], [7, 8], [-1, 9]])
        replayed, others = ops.route(logits.nan_to_num(), top_k=2, replay_ids=given)
    good = [0, 1, 3, 5]
    want_ids, want = ops.route(logits[good], top_k=4, scaling=2.0)
    assert torch.equal(ids[good], want_ids)
    torch.testing.assert_close(weights[good], want)
    assert weights[[2, 4]].isnan().all()
    assert torch.equal(ids[4], torch.arange(4, dtype=torch.int32))
    assert torch.equal(replayed, given.int())
    assert torch.equal(
        others.isnan().any(-1), torch.tensor([False, True, False, False, False, True])
    )


def test_errors_before_any_launch() -> None:
    logits = torch.randn(4, 8)
    with simulated_gpu() as gpu:
        with pytest.raises(mn.ShapeError, match="top_k"):
            ops.route(logits, top_k=9)
        with pytest.raises(mn.UnsupportedError, match="bfloat16 is not one of"):
            ops.route(logits.bfloat16(), top_k=2)
        with pytest.raises(mn.UnsupportedError, match="cuda: has no backward"):
            ops.route(logits.requires_grad_(), top_k=2)
    assert not gpu.launches
