"""The families' cases on a real GPU: ``pytest -m gpu``. They have not been run on one yet."""

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import backends, ops
from mimo_native.cache import LayerCache

from ..attention.caches import empty_cache
from ..attention.cases import CASES as ATTENTION
from ..attention.cases import Committed
from ..case import Case, check_case
from ..experts.cases import CASES as EXPERTS
from ..gemm.cases import CASES as GEMM
from ..norm_rope.cases import CASES as NORM_ROPE
from ..routing.cases import CASES as ROUTING
from ..sampling.cases import CASES as SAMPLING

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
CASES: list[Case] = [*GEMM, *EXPERTS, *ROUTING, *NORM_ROPE, *ATTENTION, *SAMPLING]


def moved(value: object, device: str) -> object:
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.to(device) if isinstance(value, Tensor) else value


def filled(stored: Committed, window: int | None) -> LayerCache:
    longest = max((len(k) for k in stored.keys), default=0)
    sizes = stored.keys[0], stored.values[0], window, longest + 256
    cache = empty_cache(len(stored.keys), *sizes, device="cuda")
    edges = torch.tensor([0, *(len(k) for k in stored.keys)]).cumsum(0)
    new = torch.cat(stored.keys).cuda(), torch.cat(stored.values).cuda()
    cache.commit(*new, cu_seqlens_q=edges)
    return cache


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    def on_gpu(**args: object) -> object:
        there = {name: moved(value, "cuda") for name, value in args.items()}
        if isinstance(args.get("layer_cache"), Committed):
            there["layer_cache"] = filled(args["layer_cache"], case.window)
        try:
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
