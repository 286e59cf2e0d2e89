"""The sampler's CUDA kernel on the simulated GPU: the cases it serves, under every checker."""

import importlib.util

import pytest
import torch

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import simulated_gpu

from ..case import check_case
from .cases import CASES, SampleCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
OTHERS = ("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
          "frequency_penalty", "history", "prompt_lens")  # fmt: skip
SERVED = [case for case in CASES if all(case.make().get(name) is None for name in OTHERS)]
SERVED += [
    SampleCase(rows=3, vocab=1024 * 9 + 5),
    SampleCase(rows=3, vocab=2048, data="masked", temperature=(0.5, 0.0)),
]


def on_gpu(schedule: str = "random", **args: object) -> tuple[torch.Tensor, torch.Tensor]:
    with simulated_gpu(capability=(8, 0), schedule=schedule) as gpu:
        out = ops.sample(**args)
    assert len(gpu.launches) == (len(args["logits"]) > 0)
    assert all(launch.stats.bank_conflicts == 0 for launch in gpu.launches)
    return out


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", SERVED, ids=str)
def test_every_case_is_within_its_bound(case: SampleCase, schedule: str) -> None:
    check_case(case, lambda **args: on_gpu(schedule, **args))


def test_the_ids_are_those_of_the_cpu() -> None:
    logits = 3 * torch.randn(200, 1500, generator=torch.Generator().manual_seed(1))
    args = {
        "logits": logits,
        "seed": torch.arange(200),
        "position": torch.arange(200) * 3,
        "temperature": torch.linspace(0, 2, 200),
    }
    ids, logprobs = on_gpu(**args)
    want_ids, want_logprobs = ops.sample(**args)
    assert torch.equal(ids, want_ids)
    torch.testing.assert_close(logprobs, want_logprobs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, "hidden"])
def test_a_row_that_is_no_distribution_gives_minus_one(bad: object) -> None:
    logits = torch.randn(3, 40)
    logits[1] = -torch.inf if bad == "hidden" else logits[1]
    if bad != "hidden":
        logits[1, 37] = bad
    where = torch.arange(3)
    ids, logprobs = on_gpu(logits=logits, seed=where, position=where)
    assert ids[1] == -1
    assert logprobs[1].isnan()
    assert (ids[[0, 2]] >= 0).all()


def test_what_is_not_served_is_refused_before_any_launch() -> None:
    where = torch.arange(2)
    args = {"logits": torch.randn(2, 9), "seed": where, "position": where}
    with simulated_gpu() as gpu:
        with pytest.raises(mn.UnsupportedError, match="does not serve top_p"):
            ops.sample(**args, top_p=torch.ones(2))
        with pytest.raises(mn.ShapeError, match="seed"):
            ops.sample(**args | {"seed": torch.arange(3)})
        with pytest.raises(mn.ShapeError, match="vocabulary"):
            ops.sample(**args | {"logits": torch.zeros(2, 4096 * 1024 + 1, dtype=torch.bfloat16)})
    assert not gpu.launches
