"""The families' cases on a real GPU: ``pytest -m gpu``. They have not been run on one yet."""

import pytest
import torch

import mimo_native as mn
from mimo_native import backends, ops

from ..attention.cases import CASES as ATTENTION
from ..case import Case, check_case
from ..experts.cases import CASES as EXPERTS
from ..gemm.cases import CASES as GEMM
from ..norm_rope.cases import CASES as NORM_ROPE
from ..on_device import moved, on_device
from ..routing.cases import CASES as ROUTING
from ..sampling.cases import CASES as SAMPLING

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
CASES: list[Case] = [*GEMM, *EXPERTS, *ROUTING, *NORM_ROPE, *ATTENTION, *SAMPLING]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    def on_gpu(**args: object) -> object:
        try:
            there = on_device(case, args, "cuda")
            return moved(getattr(ops, case.op)(**there), "cpu")
        except mn.UnsupportedError as error:
            pytest.skip("; ".join(error.reasons))

    check_case(case, on_gpu)


def test_work_is_enqueued_on_the_current_stream() -> None:
    x, w = torch.randn(512, 512, device="cuda"), torch.randn(512, 512, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        y = ops.linear(x.mul_(2), w)
    stream.synchronize()
    torch.testing.assert_close(y, x @ w.T, rtol=1e-3, atol=1e-2)


def test_the_device_serves() -> None:
    x = torch.ones(2, 8, device="cuda")
    assert backends.explain("linear", x, x).backend == "cuda"
    assert backends.native("cuda").unavailable_reason() == ""


def test_a_whole_model_computes_what_it_does_on_the_cpu() -> None:
    model = mn.MiMoForCausalLM(mn.MiMoConfig.tiny()).init_weights(std=0.15, seed=3)
    model.requires_grad_(False)
    ids = torch.tensor([[5, 9, 30, 2, 77, 8, 1, 4, 100, 200]])
    want = model(ids).logits
    model.cuda()
    cache = model.new_cache(1, 32)
    got = [model(part.cuda(), cache=cache).logits.cpu() for part in ids.split(7, dim=1)]
    assert (torch.cat(got, dim=1) - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("speculative", [None, "chain"])
def test_generation_is_that_of_the_cpu(speculative: str | None) -> None:
    model = mn.MiMoForCausalLM(mn.MiMoConfig.tiny()).init_weights(std=0.15, seed=3)
    model.requires_grad_(False)
    sampling = mn.Sampling(temperature=0, max_tokens=8, ignore_eos=True)
    prompts = [[5, 9, 30, 2, 77, 8, 1, 4, 100, 200], [3, 7]]
    want = mn.generate(model, prompts, sampling=sampling)
    got = mn.generate(model.cuda(), prompts, sampling=sampling, speculative=speculative)
    assert [c.token_ids for c in got] == [c.token_ids for c in want]
