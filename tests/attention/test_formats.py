"""Caches of 8-bit codes: what they hold, what attention makes of it, and that bits do not depend on
how a token came."""

import pytest
import torch
from torch import Tensor

from mimo_native import _C, ops
from mimo_native.cache import GlobalLayerCache
from mimo_native.errors import ShapeError, UnsupportedError

from .bound import attention_bound
from .test_bitwise import equal, random_tree, signed, tokens

FORMATS = ("int8", "e4m3")
HEADS = [(8, 1, 192, 128), (6, 2, 24, 16), (32, 2, 20, 10)]  # Hq, Hkv, Dqk, Dv


def cache_for(k: Tensor, v: Tensor, kv_format: str, rows: int = 1) -> GlobalLayerCache:
    return GlobalLayerCache(
        rows, 2500, num_kv_heads=k.shape[1], head_dim=k.shape[2], v_head_dim=v.shape[2],
        kv_format=kv_format,
    )  # fmt: skip


def nearest(x: Tensor, kv_format: str) -> Tensor:
    """The nearest value that each row's codes can express, by search; ties may go either way."""
    if kv_format == "int8":
        grid = torch.arange(-127.0, 128.0) / 127
    else:
        bits = torch.arange(128)
        exponent, mantissa = bits // 8, bits % 8
        small = mantissa * 2.0**-9
        large = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        half = torch.where(exponent == 0, small, large)[:127]  # the last code is NaN
        grid = torch.cat((-half.flip(0), half)) / 448
    m = x.abs().amax(-1, keepdim=True).double()
    values = grid.double() * m[..., None]
    pick = (x[..., None] - values).abs().argmin(-1, keepdim=True)
    return values.expand(*x.shape, -1).gather(-1, pick).squeeze(-1)


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_what_is_stored_is_the_nearest_code(isa: str, kv_format: str, heads) -> None:
    _, k, v, _ = tokens(150, heads, torch.bfloat16)
    k[3] *= 1e-30
    k[5] *= 1e30
    v[7] = 0
    v[9, :, 1:] *= 1e-4  # e4m3: subnormal codes
    cache = cache_for(k, v, kv_format)
    for begin, end in ((0, 1), (1, 70), (70, 150)):
        cache.commit(k[None, begin:end], v[None, begin:end])
    for x, got in zip((k, v), cache.unpacked(0), strict=False):
        assert got.dtype is torch.float32
        want = nearest(x.double(), kv_format)
        most = x.abs().amax(-1, keepdim=True).double()
        step = (want - x.double()).abs() * (1 + 1e-5) + most * 1e-6
        assert bool(((got.double() - x.double()).abs() <= step).all())
        assert got.equal(cache.as_stored(x))
    assert not cache.unpacked(0)[1][7].any()


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("committed", [0, 70, 2100])
def test_attention_is_that_of_the_stored_values(isa: str, committed, heads, kv_format) -> None:
    new = 9
    q, k, v, sink = tokens(committed + new, heads, torch.bfloat16)
    cache = cache_for(k, v, kv_format)
    cache.commit(k[None, :committed], v[None, :committed])
    o, lse = ops.attention_cached(
        q[None, committed:], k[None, committed:], v[None, committed:], cache, sink=sink,
        return_lse=True,
    )  # fmt: skip
    q64, k64, v64 = q[committed:].double(), cache.as_stored(k).double(), cache.as_stored(v).double()
    visible = torch.arange(committed, committed + new)[:, None] >= torch.arange(committed + new)
    group = heads[0] // heads[1]
    scores = torch.einsum("thd,shd->hts", q64, k64.repeat_interleave(group, 1)) * heads[2] ** -0.5
    scores = scores.masked_fill(~visible, -torch.inf)
    scores = torch.cat((scores, sink.double()[:, None, None].expand(-1, new, 1)), -1)
    want_lse = scores.logsumexp(-1)
    p = scores.softmax(-1)[..., :-1]
    want = torch.einsum("hts,shd->thd", p, v64.repeat_interleave(group, 1))
    o_bound, lse_bound = attention_bound(
        q64, k64, v64, visible, heads[2] ** -0.5, sink.double(), want, want_lse, torch.bfloat16
    )
    assert bool(((o[0].double() - want).abs() <= o_bound).all())
    assert bool(((lse[0].double() - want_lse).abs() <= lse_bound).all())


def whole(q, k, v, sink, kv_format) -> tuple[Tensor, Tensor]:
    """One call over an empty cache."""
    o, lse = ops.attention_cached(
        q[None], k[None], v[None], cache_for(k, v, kv_format), sink=sink, return_lse=True
    )
    return o[0], lse[0]


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_chunks_of_every_size_equal_one_prefill(isa: str, heads, kv_format: str) -> None:
    n = 150
    q, k, v, sink = tokens(n, heads, torch.bfloat16)
    want = whole(q, k, v, sink, kv_format)
    for size in (1, 3, 16, 63, 64, 65, 128):
        if size == 1 and isa == "scalar":
            continue
        cache, parts = cache_for(k, v, kv_format), []
        for begin in range(0, n, size):
            part = slice(begin, begin + size)
            new = q[None, part], k[None, part], v[None, part]
            parts.append(ops.attention_cached(*new, cache, sink=sink, return_lse=True))
            cache.commit(*new[1:])
        got = torch.cat([o[0] for o, _ in parts]), torch.cat([lse[0] for _, lse in parts], -1)
        assert equal(got, want), f"chunks of {size}"


@pytest.mark.parametrize("kv_format", FORMATS)
@pytest.mark.parametrize("committed", [0, 15, 62, 2046])
def test_tree_nodes_equal_plain_decoding(isa: str, committed: int, kv_format: str) -> None:
    nodes = 12
    q, k, v, sink = tokens(committed + nodes, HEADS[0], torch.bfloat16)
    masks, paths = random_tree(nodes, seed=nodes)
    cache = cache_for(k, v, kv_format)
    cache.commit(k[None, :committed], v[None, :committed])
    new = q[None, committed:], k[None, committed:], v[None, committed:]
    o, lse = ops.attention_cached(
        *new, cache, ancestors=signed(masks)[None], sink=sink, return_lse=True
    )
    for node, path in enumerate(paths):
        line = [*range(committed), *(committed + j for j in path)]
        want_o, want_lse = whole(q[line], k[line], v[line], sink, kv_format)
        assert o[0, node].equal(want_o[-1]), f"node {node}"
        assert lse[0, :, node].equal(want_lse[:, -1])


@pytest.mark.parametrize("kv_format", FORMATS)
def test_batch_and_threads_do_not_matter(isa: str, kv_format: str) -> None:
    before = torch.get_num_threads()
    q, k, v, sink = tokens(2300, HEADS[2], torch.bfloat16)
    cache = cache_for(k, v, kv_format, rows=2)
    edges = torch.tensor([0, 2299, 2299 + 40])
    cache.commit(torch.cat((k[:2299], k[:40])), torch.cat((v[:2299], v[:40])), cu_seqlens_q=edges)
    pick = [2299, 40]
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert _C.max_threads() == threads
            results.append(
                ops.attention_cached(q[pick, None], k[pick, None], v[pick, None], cache, sink=sink)
            )
    finally:
        torch.set_num_threads(before)
    assert all(r.equal(results[0]) for r in results)
    want = whole(q, k, v, sink, kv_format)[0]
    assert results[0][0, 0].equal(want[2299])
    assert results[0][1, 0].equal(want[40])


@pytest.mark.parametrize("kv_format", FORMATS)
def test_a_number_that_is_not_finite_shows(isa: str, kv_format: str) -> None:
    q, k, v, _ = tokens(40, HEADS[0], torch.bfloat16)
    for x in (k, v):
        for bad in (torch.nan, torch.inf):
            kept = x[11, 0, 3].clone()
            x[11, 0, 3] = bad
            o, _ = whole(q, k, v, None, kv_format)
            assert o[11:].isnan().any(-1).all()
            x[11, 0, 3] = kept


def test_formats_that_do_not_suit_are_refused() -> None:
    sizes = {"num_kv_heads": 1, "head_dim": 16, "v_head_dim": 16}
    with pytest.raises(UnsupportedError, match="int7"):
        GlobalLayerCache(1, 8, kv_format="int7", **sizes)
    with pytest.raises(UnsupportedError, match="bfloat16"):
        GlobalLayerCache(1, 8, kv_format="int8", dtype=torch.float32, **sizes)
    cache = GlobalLayerCache(1, 8, kv_format="int8", **sizes)
    x = torch.zeros(1, 1, 1, 16)
    with pytest.raises(ShapeError, match="float32"):
        ops.attention_cached(x, x, x, cache)
    with pytest.raises(ShapeError, match="bfloat16"):
        cache.commit(x, x)
