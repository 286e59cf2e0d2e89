"""Rotation, value scale and the write to a global layer's cache as one kernel of the simulated GPU:
the bits of rope followed by a commit, under every checker."""

import importlib.util

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import backends, ops
from mimo_native.cache import GlobalLayerCache, LayerCache, RingLayerCache
from mimo_native.testing import simulated_gpu

from ..case import FLOATS
from .cases import CASES, RopeCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
ROPES = [
    *(c for c in CASES if isinstance(c, RopeCase) and c.qk % 8 == c.v % 8 == 0),
    # Element by element in both dtypes, and with every dim turned.
    *(
        RopeCase(tokens=n, heads=h, groups=g, qk=qk, v=8, rotary_dim=r, dtype=t)
        for n, h, g, qk, r in ((33, 2, 2, 24, 6), (2, 2, 1, 8, 8))
        for t in FLOATS
    ),
]
ROWS, ROOM = 3, 128
CASE = RopeCase(tokens=7, heads=4, groups=2, qk=24, v=16, rotary_dim=8, dtype=torch.bfloat16)


def empty(case: RopeCase) -> GlobalLayerCache:
    """Inside ``simulated_gpu``; its storage is zeros, so that every byte can be compared."""
    sizes = {"num_kv_heads": case.groups, "head_dim": case.qk, "v_head_dim": case.v}
    cache = GlobalLayerCache(ROWS, ROOM, dtype=case.dtype, **sizes)
    cache.keys.zero_()
    cache.values.zero_()
    return cache


def committed(case: RopeCase, cache: LayerCache, counts: tuple[int, ...]) -> None:
    """Give the rows so many tokens."""
    k = torch.randn(sum(counts), case.groups, case.qk).to(case.dtype)
    v = torch.randn(sum(counts), case.groups, case.v).to(case.dtype)
    rows, positions = places(cache, counts)
    cache.write_ahead(k, v, rows, positions)
    cache.lengths += torch.tensor(counts)


def places(cache: LayerCache, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    at = [(row, int(cache.lengths[row]) + i) for row, n in enumerate(counts) for i in range(n)]
    rows, positions = torch.tensor(at, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    return rows, positions


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", ROPES, ids=str)
def test_stores_what_rope_returns(case: RopeCase, schedule: str) -> None:
    """And nothing beside: every other byte of the cache is what it was."""
    args = case.make()
    counts = case.tokens // 2, 0, case.tokens - case.tokens // 2
    with simulated_gpu(capability=(8, 0), schedule=schedule) as gpu:
        cache, other = empty(case), empty(case)
        for each in (cache, other):
            torch.manual_seed(0)
            committed(case, each, (5, 0, 70))
        rows, positions = places(cache, counts)
        want = ops.rope(**args)
        gpu.launches.clear()
        got = ops.rope_cached(**args, layer_cache=cache, rows=rows, positions=positions)
        assert len(gpu.launches) == (case.tokens > 0)
    for ours, theirs in zip(got, want, strict=True):
        assert torch.equal(ours, theirs)
    for row, position, k, v in zip(rows, positions, *want[1:], strict=True):
        other.keys[row, :, position], other.values[row, :, position] = k, v
    assert torch.equal(cache.keys, other.keys)
    assert torch.equal(cache.values, other.values)
    assert cache.lengths.tolist() == [5, 0, 70]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_is_rope_and_a_commit_bit_for_bit(dtype: torch.dtype) -> None:
    case = RopeCase(tokens=9, heads=4, groups=2, qk=192, v=128, rotary_dim=64, dtype=dtype)
    args, counts = case.make(), (2, 6, 1)
    with simulated_gpu(capability=(8, 0)) as gpu:
        fused, apart = empty(case), empty(case)
        for _ in range(2):  # the second behind the first
            rows, positions = places(fused, counts)
            _, k, v = ops.rope_cached(**args, layer_cache=fused, rows=rows, positions=positions)
            fused.note_ahead(k, v)
            edges = torch.tensor([0, *counts]).cumsum(0)
            gpu.launches.clear()
            fused.commit(k, v, cu_seqlens_q=edges)
            assert not gpu.launches
            _, k, v = ops.rope(**args)
            apart.commit(k, v, cu_seqlens_q=edges)
    assert torch.equal(fused.lengths, apart.lengths)
    assert torch.equal(fused.keys, apart.keys)
    assert torch.equal(fused.values, apart.values)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_reference_stores_the_same_places(dtype: torch.dtype) -> None:
    case = RopeCase(tokens=9, heads=4, groups=2, qk=24, v=16, rotary_dim=8, dtype=dtype)
    args = case.make()
    with simulated_gpu(capability=(8, 0)):
        ours, theirs = empty(case), empty(case)
        rows, positions = places(ours, (2, 6, 1))
        more = {"rows": rows, "positions": positions}
        got = ops.rope_cached(**args, layer_cache=ours, **more)
        with backends.use("reference"):
            want = ops.rope_cached(**args, layer_cache=theirs, **more)
    tolerance = {"rtol": 2.0**-7, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    for a, b in zip(
        (*got, ours.keys, ours.values), (*want, theirs.keys, theirs.values), strict=True
    ):
        torch.testing.assert_close(a, b, **tolerance)
    assert torch.equal(ours.keys != 0, theirs.keys != 0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_places_that_do_not_exist_are_left_out(dtype: torch.dtype) -> None:
    case = RopeCase(tokens=8, heads=2, groups=2, qk=24, v=16, rotary_dim=8, dtype=dtype)
    args = case.make()
    rows = torch.tensor([0, ROWS - 1, ROWS, -1, 0, 1, 1 << 40, 2])
    positions = torch.tensor([0, ROOM - 1, 0, 3, ROOM, -1, 0, -(1 << 40)])
    with simulated_gpu(capability=(8, 0)):
        cache, other = empty(case), empty(case)
        q, k, v = ops.rope_cached(**args, layer_cache=cache, rows=rows, positions=positions)
        other.write_ahead(k, v, rows, positions)
        for ours, theirs in zip((q, k, v), ops.rope(**args), strict=True):
            assert torch.equal(ours, theirs)
    stored = [(0, 0), (ROWS - 1, ROOM - 1)]
    assert torch.equal(cache.keys, other.keys)
    assert torch.equal(cache.values, other.values)
    assert cache.keys.any(-1).any(1).nonzero().tolist() == [list(at) for at in stored]


def test_storage_is_written_in_whole_sectors() -> None:
    case = RopeCase(
        tokens=3, heads=16, groups=2, qk=192, v=128, rotary_dim=64, dtype=torch.bfloat16
    )
    with simulated_gpu(capability=(8, 0)) as gpu:
        cache = empty(case)
        rows, positions = places(cache, (1, 1, 1))
        ops.rope_cached(**case.make(), layer_cache=cache, rows=rows, positions=positions)
    stores = [i for i in gpu.launches[0].stats.instructions if i.opcode.startswith("st.global")]
    kv = 2 * (192 + 128)
    assert sum(i.bytes for i in stores) == 2 * 3 * (16 * 192 + 2 * kv)
    assert all(i.sectors * 32 == i.bytes for i in stores)


def refused(change: dict[str, object], error: type[Exception]) -> Exception:
    with simulated_gpu() as gpu:
        cache = empty(CASE)
        rows, positions = places(cache, (7, 0, 0))
        args = CASE.make() | {"layer_cache": cache, "rows": rows, "positions": positions}
        with pytest.raises(error) as caught:
            ops.rope_cached(**args | change)
        assert not gpu.launches
        assert not cache.keys.any()
    return caught.value


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"rows": torch.zeros(6, dtype=torch.int64)}, "rows"),
        ({"positions": torch.zeros(7, dtype=torch.int32)}, "positions"),
        ({"k": torch.ones(7, 1, 24).bfloat16()}, "layer_cache.keys"),
        ({"v": torch.ones(7, 2, 24).bfloat16()}, "layer_cache.values"),
        ({"v": torch.ones(7, 1, 16).bfloat16()}, "v"),
        ({"table": torch.ones(7, 26)}, "table"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_launch(change: dict, argument: str) -> None:
    assert refused(change, mn.ShapeError).argument == argument


def test_another_dtype_is_refused() -> None:
    wide = {name: t.float() for name, t in CASE.make().items() if name in "qkv"}
    assert refused(wide, mn.ShapeError).argument == "layer_cache.keys"


def test_what_is_not_served_is_refused_with_reasons() -> None:
    sizes = {"num_kv_heads": 2, "head_dim": 24, "v_head_dim": 16}
    on_cpu = GlobalLayerCache(ROWS, ROOM, **sizes)
    with simulated_gpu():
        ring = RingLayerCache(ROWS, 65, **sizes)
    q = CASE.make()["q"].requires_grad_()
    for change, reason in (
        ({"layer_cache": on_cpu}, "made for the CPU"),
        ({"layer_cache": ring}, "a ring's next places"),
        ({"q": q}, "no backward"),
        ({"q": q.detach().double()}, "float64 is not one of"),
    ):
        assert reason in str(refused(change, mn.UnsupportedError))
    args = CASE.make() | {"rows": torch.zeros(7, dtype=torch.int64)}
    args["positions"] = torch.arange(7)
    with pytest.raises(mn.UnsupportedError, match="cpu: has no kernel"):
        ops.rope_cached(**args, layer_cache=on_cpu)
