"""The families' cases on a real GPU: ``pytest -m gpu``. They have not been run on one yet."""

import pytest
import torch
from torch import Tensor

from mimo_native import backends, ops

from ..case import Case, check_case
from ..experts.cases import CASES as EXPERTS
from ..gemm.cases import CASES as GEMM
from ..norm_rope.cases import CASES as NORM_ROPE
from ..routing.cases import CASES as ROUTING

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
CASES: list[Case] = [*GEMM, *EXPERTS, *ROUTING, *NORM_ROPE]


def moved(value: object, device: str) -> object:
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.to(device) if isinstance(value, Tensor) else value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case) -> None:
    def on_gpu(**args: object) -> object:
        result = getattr(ops, case.op)(**{name: moved(v, "cuda") for name, v in args.items()})
        return moved(result, "cpu")

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
