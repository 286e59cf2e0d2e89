"""One layer's cache: commits come back, rings wrap, rows are cut, errors write nothing."""

import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, UnsupportedError
from mimo_native.cache import GlobalLayerCache, LayerCache, RingLayerCache

FLOATS = (torch.float32, torch.bfloat16)
SIZES = {"num_kv_heads": 2, "head_dim": 10, "v_head_dim": 20}


def tokens(n: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, 2, d, generator=gen).to(dtype) for d in (10, 20))


def make(kind: str, rows: int = 1, dtype: torch.dtype = torch.bfloat16, **options) -> LayerCache:
    if kind == "global":
        return GlobalLayerCache(rows, options.get("max_tokens", 700), dtype=dtype, **SIZES)
    return RingLayerCache(rows, 129, dtype=dtype, **SIZES, **options)


def holds(cache: LayerCache, row: int, k: Tensor, v: Tensor) -> None:
    """The row's tokens are k, v; a ring has at least the last window's."""
    keys, values, positions = cache.unpacked(row)
    first = int(positions[0]) if len(positions) else 0
    assert int(cache.lengths[row]) == len(k)
    assert positions.equal(torch.arange(first, len(k)))
    assert first <= (max(0, len(k) - 128) if cache.is_ring else 0)
    assert keys.equal(k[first:])
    assert values.equal(v[first:])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", ["global", "ring"])
@pytest.mark.parametrize("step", [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300, 700])
def test_what_is_committed_comes_back(isa: str, step: int, kind: str, dtype) -> None:
    k, v = tokens(700, dtype)
    cache = make(kind, dtype=dtype)
    for begin in range(0, 700, step):
        part = slice(begin, begin + step)
        cache.commit(k[None, part], v[None, part])
        if begin % 5 == 0:
            holds(cache, 0, k[: begin + step], v[: begin + step])
    holds(cache, 0, k, v)


@pytest.mark.parametrize("kind", ["global", "ring"])
def test_ragged_rows_do_not_touch_one_another(kind: str) -> None:
    cache = make(kind, rows=4)
    rows: list[list[Tensor]] = [[], [], [], []]
    gen = torch.Generator().manual_seed(0)
    for step in range(12):
        counts = torch.randint(0, 60, (4,), generator=gen).tolist()
        k, v = tokens(sum(counts), seed=step)
        cache.commit(k, v, cu_seqlens_q=torch.tensor([0, *counts]).cumsum(0).int())
        for row, (k_row, v_row) in enumerate(zip(k.split(counts), v.split(counts), strict=True)):
            rows[row].append((k_row, v_row))
    for row, parts in enumerate(rows):
        holds(cache, row, *(torch.cat(t) for t in zip(*parts, strict=True)))


@pytest.mark.parametrize("kind", ["global", "ring"])
def test_only_the_accepted_path_of_a_tree_is_committed(kind: str) -> None:
    k, v = tokens(300)
    cache = make(kind, rows=2)
    cache.commit(k[None, :200].expand(2, -1, -1, -1), v[None, :200].expand(2, -1, -1, -1))
    new_k, new_v = k[200:212].unflatten(0, (2, 6)), v[200:212].unflatten(0, (2, 6))
    # Row 0: 0 -> {1, 2}, 2 -> 4 and more; row 1 accepts nothing but its root.
    masks = torch.tensor([[1, 3, 5, 11, 21, 53], [1, 3, 7, 15, 31, 63]])
    rows = torch.tensor([0, 2, 4, 6])
    cache.commit(new_k, new_v, rows, ancestors=masks)
    holds(cache, 0, *(torch.cat((t[:200], n[0, [0, 2, 4]])) for t, n in ((k, new_k), (v, new_v))))
    holds(cache, 1, *(torch.cat((t[:200], n[1, [0]])) for t, n in ((k, new_k), (v, new_v))))


@pytest.mark.parametrize("kind", ["global", "ring"])
@pytest.mark.parametrize("length", [70, 64, 5, 0])
def test_a_cut_row_goes_on_with_other_tokens(kind: str, length: int) -> None:
    k, v = tokens(128)
    cache = make(kind)
    cache.commit(k[None], v[None])
    cache.truncate(0, length)
    holds(cache, 0, k[:length], v[:length])
    other_k, other_v = tokens(200, seed=9)
    cache.commit(other_k[None], other_v[None])
    holds(cache, 0, torch.cat((k[:length], other_k)), torch.cat((v[:length], other_v)))


def test_a_wrapped_ring_is_cut_as_far_as_it_still_reaches() -> None:
    k, v = tokens(400)
    cache = RingLayerCache(1, 70, **SIZES)  # holds 128 positions, a window looks back 69
    cache.commit(k[None], v[None])
    first = 400 - 128
    for length in (first + 68, 1, 300):
        with pytest.raises(ShapeError, match="truncate: length"):
            cache.truncate(0, length)
    cache.truncate(0, first + 100)
    cache.truncate(0, first + 69)
    keys, _, positions = cache.unpacked(0)
    assert positions.equal(torch.arange(first, first + 69))
    assert keys.equal(k[first : first + 69])
    with pytest.raises(ShapeError, match="truncate: length"):
        cache.truncate(0, first + 68)
    cache.reset(0)
    cache.commit(k[None, :3], v[None, :3])
    holds(cache, 0, k[:3], v[:3])


def test_storage_is_rounded_to_blocks_and_counted() -> None:
    assert make("global", max_tokens=65).capacity == 128
    assert [RingLayerCache(1, w, **SIZES).capacity for w in (1, 2, 64, 65, 66, 129, 130)] == [
        64, 64, 64, 64, 128, 128, 192,
    ]  # fmt: skip
    assert make("ring", rows=3).nbytes == 3 * 2 * 128 * (10 + 32) * 2  # Dv is padded to 16
    cache = make("global", max_tokens=65, dtype=torch.float32)
    assert cache.nbytes == 2 * 128 * (10 + 32) * 4


def step(**changes: object) -> dict[str, object]:
    k, v = tokens(5)
    return {"k_new": k, "v_new": v, "cu_seqlens_q": torch.tensor([0, 2, 5]), **changes}


LONG = tokens(800)
BAD = {
    "another row count": ({"cu_seqlens_q": torch.tensor([0, 5])}, "cu_seqlens"),
    "edges beyond the tokens": ({"cu_seqlens_q": torch.tensor([0, 2, 6])}, "cu_seqlens"),
    "another dtype": ({"k_new": tokens(5)[0].float(), "v_new": tokens(5)[1].float()}, "k_new"),
    "mixed dtypes": ({"v_new": tokens(5)[1].float()}, "v_new"),
    "another head count": ({"k_new": torch.zeros(5, 3, 10).bfloat16()}, "v_new"),
    "another head dim": ({"k_new": torch.zeros(5, 2, 12).bfloat16()}, "k_new"),
    "a head dim padded to the same": ({"k_new": torch.zeros(5, 2, 9).bfloat16()}, "k_new"),
    "a value dim padded to the same": ({"v_new": torch.zeros(5, 2, 19).bfloat16()}, "v_new"),
    "fewer values": ({"v_new": tokens(4)[1]}, "v_new"),
    "a strided head dim": ({"k_new": torch.zeros(5, 2, 20).bfloat16()[..., ::2]}, "k_new"),
    "rows in the wrong order": ({"rows": torch.tensor([3, 0])}, "rows"),
    "a row twice": ({"rows": torch.tensor([0, 0])}, "rows"),
    "a gap": ({"rows": torch.tensor([0, 1, 2, 4])}, "rows"),
    "rows beyond the tokens": ({"rows": torch.tensor([0, 5])}, "rows"),
    "negative rows": ({"rows": torch.tensor([-1])}, "rows"),
    "no path of the tree": ({"rows": torch.tensor([2, 3, 4]),
                             "ancestors": torch.tensor([1, 3, 1, 3, 5])}, "rows"),
    "a path without its root": ({"rows": torch.tensor([3]),
                                 "ancestors": torch.tensor([1, 3, 1, 3, 5])}, "rows"),
    "too many tokens": ({"k_new": LONG[0], "v_new": LONG[1],
                         "cu_seqlens_q": torch.tensor([0, 2, 800])}, "rows"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["global", "ring"])
@pytest.mark.parametrize("name", BAD)
def test_a_refused_commit_changes_nothing(name: str, kind: str) -> None:
    changes, argument = BAD[name]
    options = {"max_tokens": 700} if kind == "ring" else {}
    cache = make(kind, rows=2, **options)
    k, v = tokens(300)
    cache.commit(k[None].expand(2, -1, -1, -1), v[None].expand(2, -1, -1, -1))
    state = [cache.lengths, cache.keys, cache.values, *([cache.held_from] if cache.is_ring else [])]
    before = [t.clone().view(torch.uint8) for t in state]
    with pytest.raises(ShapeError, match=r"^commit: ") as caught:
        cache.commit(**step(**changes))
    assert caught.value.argument == argument
    assert all(b.equal(t.view(torch.uint8)) for b, t in zip(before, state, strict=True))


def test_a_full_cache_takes_its_last_token_and_no_other() -> None:
    k, v = tokens(71)
    cache = make("global", max_tokens=70)
    cache.commit(k[None, :69], v[None, :69])
    cache.commit(k[None, 69:70], v[None, 69:70])
    with pytest.raises(ShapeError, match="at most 70 tokens"):
        cache.commit(k[None, 70:], v[None, 70:])
    holds(cache, 0, k[:70], v[:70])


@pytest.mark.parametrize("row", [-1, 1])
def test_rows_that_do_not_exist(row: int) -> None:
    cache = make("ring")
    for call in (
        lambda: cache.reset(row),
        lambda: cache.truncate(row, 0),
        lambda: cache.unpacked(row),
    ):
        with pytest.raises(ShapeError, match="row"):
            call()


def test_impossible_caches_are_refused() -> None:
    with pytest.raises(ShapeError, match="max_tokens"):
        GlobalLayerCache(1, -1, **SIZES)
    with pytest.raises(ShapeError, match="window_keys"):
        RingLayerCache(1, 0, **SIZES)
    with pytest.raises(ShapeError, match="sizes"):
        GlobalLayerCache(1, 10, num_kv_heads=0, head_dim=1, v_head_dim=1)
    with pytest.raises(UnsupportedError, match="float16"):
        GlobalLayerCache(1, 10, dtype=torch.float16, **SIZES)
