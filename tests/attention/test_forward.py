"""The kernels against the float64 reference, at every ISA level, within the derived bounds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mimo_native import ops

from ..case import check_case
from .caches import filled_cache
from .cases import CASES, AttentionCase, CachedCase

HEADS = {"heads": 6, "groups": 2, "qk": 40, "v": 24}


def native(case) -> Callable[..., object]:
    op = getattr(ops, case.op)
    if not isinstance(case, CachedCase):
        return op

    def cached(*, layer_cache, **args) -> object:
        return op(
            layer_cache=filled_cache(layer_cache.keys, layer_cache.values, case.window), **args
        )

    return cached


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_is_within_its_bound(isa: str, case) -> None:
    check_case(case, native(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("qk", [1, 2, 7, 8, 24, 40, 130])
@pytest.mark.parametrize("v", [1, 8, 16, 17, 72])
def test_head_dims_of_any_size(qk: int, v: int, dtype) -> None:
    heads = {"heads": 3, "groups": 1, "qk": qk, "v": v}
    case = AttentionCase(queries=70, window=30, sink="spread", dtype=dtype, **heads)
    check_case(case, ops.attention)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_window_global_cache_equals_the_ring(dtype) -> None:
    """A sliding layer may also be served from a cache that holds everything."""
    case = CachedCase(
        committed=(310, 5, 0), new=(3, 70, 1), window=129, sink="spread", dtype=dtype, **HEADS
    )
    args = case.make()
    old = args.pop("layer_cache")
    caches = [filled_cache(old.keys, old.values, window) for window in (129, None)]
    ring, everything = (ops.attention_cached(layer_cache=cache, **args) for cache in caches)
    assert all(map(torch.equal, ring, everything))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_strides_are_honoured(dtype) -> None:
    """Views of a fused projection, heads before tokens, and expanded batches."""
    case = AttentionCase(queries=90, batch=2, window=50, sink="spread", dtype=dtype, **HEADS)
    args = case.make()
    want = ops.attention(**args)
    for spread in (_fused, _heads_first):
        q, k, v = spread(args["q"], args["k"], args["v"])
        assert not q.is_contiguous()
        got = ops.attention(**{**args, "q": q, "k": k, "v": v})
        assert all(map(torch.equal, got, want))
    one = {name: args[name][:1].expand(2, -1, -1, -1) for name in ("q", "k", "v")}
    o, lse = ops.attention(**{**args, **one})
    assert torch.equal(o, want[0][:1].expand_as(o))
    assert torch.equal(lse[1], want[1][0])


def _fused(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    qkv = torch.cat([t.flatten(-2) for t in (q, k, v)], dim=-1)
    parts = qkv.split([t.shape[-2] * t.shape[-1] for t in (q, k, v)], dim=-1)
    return [part.unflatten(-1, t.shape[-2:]) for part, t in zip(parts, (q, k, v), strict=True)]


def _heads_first(*tensors: Tensor) -> list[Tensor]:
    return [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]


def test_bfloat16_sinks_are_the_same_as_their_float32_values() -> None:
    case = AttentionCase(queries=40, window=9, sink="spread", dtype=torch.bfloat16, **HEADS)
    args = case.make()
    sink = args["sink"].bfloat16()
    got = ops.attention(**{**args, "sink": sink})
    want = ops.attention(**{**args, "sink": sink.float()})
    assert all(map(torch.equal, got, want))


def test_a_sink_of_minus_infinity_is_no_sink() -> None:
    case = AttentionCase(queries=80, window=40, dtype=torch.bfloat16, **HEADS)
    args = case.make()
    without = ops.attention(**args)
    sink = torch.full((6,), -torch.inf)
    assert all(map(torch.equal, ops.attention(**{**args, "sink": sink}), without))


@pytest.mark.parametrize("sink", [None, 0.5])
def test_rows_that_see_nothing(isa: str, sink: float | None) -> None:
    q, k, v = torch.randn(1, 9, 2, 8), torch.randn(1, 3, 2, 8), torch.randn(1, 3, 2, 8)
    sinks = None if sink is None else torch.tensor([sink, sink + 1])
    o, lse = ops.attention(q, k, v, sink=sinks, return_lse=True)
    assert not o[0, :6].any()
    assert o[0, 6:].any(-1).all()
    blind = torch.full((2,), -torch.inf) if sinks is None else sinks
    assert torch.equal(lse[0, :, :6], blind[:, None].expand(2, 6))


def test_nan_reaches_the_rows_that_see_it_and_no_tile_before() -> None:
    q, k, v = torch.randn(1, 200, 1, 16), torch.randn(1, 200, 1, 16), torch.randn(1, 200, 1, 16)
    clean = ops.attention(q, k, v)
    k[0, 150] = torch.nan
    got = ops.attention(q, k, v)
    assert got[0, 150:].isnan().all()
    assert torch.equal(got[0, :128], clean[0, :128])


def test_large_scores_do_not_overflow(isa: str) -> None:
    q, k, v = (30 * torch.randn(1, 100, 2, 64) for _ in range(3))
    o, lse = ops.attention(q, k, v, return_lse=True)
    assert o.isfinite().all()
    assert lse.isfinite().all()
    assert (o.abs() <= v.abs().amax() * 1.0001).all()


def test_results_do_not_depend_on_what_memory_held_before() -> None:
    """Scratch is reused between calls; unwritten lanes must not matter, even if they are NaN."""
    case = AttentionCase(queries=70, window=33, dtype=torch.bfloat16, **HEADS)
    args = case.make()
    want = ops.attention(**args)
    bad = torch.full((1, 300, 6, 40), torch.nan, dtype=torch.bfloat16)
    ops.attention(bad, bad[:, :, :2], bad[:, :, :2, :24])
    assert all(map(torch.equal, ops.attention(**args), want))
