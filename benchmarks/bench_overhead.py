"""What a call costs beside its work: ops on next to nothing (three decimals of us are ns)."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import mimo_native as mn
from mimo_native import _C


def _route() -> tuple[Callable[[], object], None]:
    logits, bias = torch.randn(1, 256), torch.zeros(256)
    return lambda: mn.ops.route(logits, bias=bias, top_k=8), None


def _rms_norm() -> tuple[Callable[[], object], Callable[[], object]]:
    x, weight = torch.randn(1, 64), torch.ones(64)
    return lambda: mn.ops.rms_norm(x, weight), lambda: F.rms_norm(x, (64,), weight, 1e-5)


def _rope() -> tuple[Callable[[], object], None]:
    q, kv, table = torch.randn(1, 2, 16), torch.randn(1, 1, 16), torch.zeros(1, 8)
    return lambda: mn.ops.rope(q, kv, kv, table), None


def _sample() -> tuple[Callable[[], object], Callable[[], object]]:
    logits, zero = torch.randn(1, 16), torch.zeros(1, dtype=torch.int64)
    cold = torch.zeros(1)
    return (
        lambda: mn.ops.sample(logits, seed=zero, position=zero, temperature=cold),
        lambda: logits.argmax(-1),
    )


def _swiglu() -> tuple[Callable[[], object], Callable[[], object]]:
    x = torch.randn(1, 32)
    return lambda: mn.ops.swiglu(x), lambda: F.silu(x[:, :16]) * x[:, 16:]


def _linear() -> tuple[Callable[[], object], Callable[[], object]]:
    x, weight = torch.randn(1, 16), torch.randn(32, 16)
    packed = mn.ops.pack(weight, format="f32")
    return lambda: mn.ops.linear(x, packed), lambda: F.linear(x, weight)


def _attention() -> tuple[Callable[[], object], None]:
    q, kv, sink = torch.randn(1, 0, 2, 16), torch.randn(1, 0, 1, 16), torch.zeros(2)
    return lambda: mn.ops.attention(q, kv, kv, sink=sink), None


def _binding_of_five_tensors() -> tuple[Callable[[], object], Callable[[], object]]:
    root, none, a, b, c = (torch.full((1,), value) for value in (0, -1, 0, 0, 0))
    x = torch.zeros(16)
    return (
        lambda: _C.build_draft_tree(root, none, 0, a, b, c),
        lambda: torch.addcmul(x, x, x, out=x),
    )


def _binding_of_attention() -> tuple[Callable[[], object], None]:
    """Four tensors, the plan of an attention without tokens, and its output."""
    q, kv, sink = torch.randn(1, 0, 2, 16), torch.randn(1, 0, 1, 16), torch.zeros(2)
    return lambda: _C.attention(q, kv, kv, None, True, None, sink, None, False), None


CALLS = {
    "route": _route,
    "rms_norm": _rms_norm,
    "rope": _rope,
    "sample": _sample,
    "swiglu": _swiglu,
    "linear": _linear,
    "attention": _attention,
    "binding of 5 tensors": _binding_of_five_tensors,
    "binding of attention": _binding_of_attention,
}


@pytest.mark.parametrize("name", CALLS)
def test_call(compare, name: str) -> None:
    ours, other = CALLS[name]()
    compare(ours=ours, torch=other, flops=0, bytes=0, dtype=torch.float32)
