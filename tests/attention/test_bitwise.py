"""A token's bits do not depend on how it came: prefill, chunks, batch, decode, tree, threads."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mimo_native import _C, ops

from .caches import empty_cache, filled_cache

FLOATS = (torch.float32, torch.bfloat16)
HEADS = [(8, 1, 192, 128), (6, 2, 24, 16), (1, 1, 20, 10)]  # Hq, Hkv, Dqk, Dv
WINDOWS = (None, 1, 2, 127, 128, 129)


def tokens(
    n: int, heads: tuple[int, int, int, int], dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v [n, H, D] and sinks."""
    hq, hkv, qk, dv = heads
    gen = torch.Generator().manual_seed(seed)
    sizes = (n, hq, qk), (n, hkv, qk), (n, hkv, dv)
    q, k, v = (torch.randn(*s, generator=gen).to(dtype) for s in sizes)
    return 2 * q, k, v, torch.linspace(-8, 8, hq)


def prefill(q, k, v, sink, window) -> tuple[Tensor, Tensor]:
    """o [N, Hq, Dv] and lse [Hq, N] of one call; q may be the last tokens only."""
    o, lse = ops.attention(
        q[None], k[None], v[None], window_keys=window, sink=sink, return_lse=True
    )
    return o[0], lse[0]


def equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", WINDOWS)
def test_chunks_of_every_size_equal_the_prefill(isa: str, window: int | None, dtype) -> None:
    n = 331
    q, k, v, sink = tokens(n, HEADS[1], dtype)
    want = prefill(q, k, v, sink, window)
    for size in (1, 3, 16, 63, 64, 65, 127, 128, 129, 200):
        if size == 1 and isa == "scalar":
            continue
        cache = empty_cache(1, k, v, window, n)
        parts = []
        for begin in range(0, n, size):
            part = slice(begin, begin + size)
            options = {"window_keys": window, "sink": sink, "return_lse": True}
            new = q[None, part], k[None, part], v[None, part]
            parts.append(ops.attention_cached(*new, cache, **options))
            cache.commit(*new[1:])
        got = torch.cat([o[0] for o, _ in parts]), torch.cat([lse[0] for _, lse in parts], -1)
        assert equal(got, want), f"chunks of {size}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", [None, 129])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_a_ragged_batch_equals_each_sequence_alone(
    isa: str, heads, window: int | None, dtype
) -> None:
    sizes = [(0, 5), (1, 1), (63, 1), (64, 70), (300, 2), (2047, 3), (2050, 0)]
    rows = [tokens(sum(size), heads, dtype, seed=i) for i, size in enumerate(sizes)]
    sink = rows[0][3]
    old = [(k[:n], v[:n]) for (_, k, v, _), (n, _) in zip(rows, sizes, strict=True)]
    cache = filled_cache([k for k, _ in old], [v for _, v in old], window)
    new = [[t[n:] for t in row[:3]] for row, (n, _) in zip(rows, sizes, strict=True)]
    q, k, v = (torch.cat(parts) for parts in zip(*new, strict=True))
    edges = torch.tensor([0, *(n for _, n in sizes)]).cumsum(0).int()
    o, lse = ops.attention_cached(
        q, k, v, cache, cu_seqlens_q=edges, window_keys=window, sink=sink, return_lse=True
    )
    for row, (n, _), (begin, end) in zip(rows, sizes, pairwise(edges.tolist()), strict=True):
        want_o, want_lse = prefill(*row[:3], sink, window)
        assert o[begin:end].equal(want_o[n:])
        assert lse[:, begin:end].equal(want_lse[:, n:])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", [None, 2, 129])
@pytest.mark.parametrize("committed", [0, 61, 64, 127, 310, 2040])
def test_a_documents_place_in_a_packed_call_does_not_matter(
    isa: str, committed: int, window: int | None, dtype
) -> None:
    lens = (committed, 3, 0, 150)
    q, k, v, sink = tokens(sum(lens), HEADS[0], dtype)
    edges = torch.tensor([0, *lens]).cumsum(0)
    o, lse = ops.attention_varlen(
        q, k, v, cu_seqlens_q=edges, cu_seqlens_k=edges, window_keys=window, sink=sink,
        return_lse=True,
    )  # fmt: skip
    for begin, end in pairwise(edges.tolist()):
        part = slice(begin, end)
        want = prefill(q[part], k[part], v[part], sink, window)
        assert equal((o[part], lse[:, part]), want)


def random_tree(nodes: int, seed: int) -> tuple[list[int], list[list[int]]]:
    """Masks, and every node's path from its root; several roots, parents anywhere before."""
    gen = torch.Generator().manual_seed(seed)
    paths: list[list[int]] = []
    for node in range(nodes):
        parent = int(torch.randint(-1, node, (1,), generator=gen)) if node > 2 else node - 1
        paths.append([*(paths[parent] if parent >= 0 else []), node])
    return [sum(1 << j for j in path) for path in paths], paths


def signed(masks: list[int]) -> Tensor:
    return torch.tensor([m - (1 << 64) if m >> 63 else m for m in masks], dtype=torch.int64)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", [None, 3, 129])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize(
    ("committed", "nodes"), [(0, 7), (15, 20), (62, 64), (310, 30), (2046, 12)]
)
def test_tree_nodes_equal_plain_decoding(isa: str, committed, nodes, heads, window, dtype) -> None:
    q, k, v, sink = tokens(committed + nodes, heads, dtype)
    masks, paths = random_tree(nodes, seed=nodes)
    cache = filled_cache([k[:committed]], [v[:committed]], window)
    new = q[None, committed:], k[None, committed:], v[None, committed:]
    ancestors = signed(masks)[None]
    o, lse = ops.attention_cached(
        *new, cache, ancestors=ancestors, window_keys=window, sink=sink, return_lse=True
    )
    for node, path in enumerate(paths):
        line = [*range(committed), *(committed + j for j in path)]
        want_o, want_lse = prefill(q[line[-1:]], k[line], v[line], sink, window)
        assert o[0, node].equal(want_o[0]), f"node {node}"
        assert lse[0, :, node].equal(want_lse[:, 0])


def test_the_order_of_tree_nodes_does_not_matter() -> None:
    """Children may come before their parents."""
    q, k, v, sink = tokens(110, HEADS[0], torch.bfloat16)
    cache = filled_cache([k[:100]], [v[:100]], 129)
    masks, paths = random_tree(10, seed=3)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1)).tolist()
    place = {node: i for i, node in enumerate(order)}
    moved = [sum(1 << place[j] for j in paths[node]) for node in order]
    options = {"window_keys": 129, "sink": sink}
    new = q[None, 100:], k[None, 100:], v[None, 100:]
    want = ops.attention_cached(*new, cache, ancestors=signed(masks)[None], **options)
    shuffled = (t[:, order] for t in new)
    got = ops.attention_cached(*shuffled, cache, ancestors=signed(moved)[None], **options)
    assert got.equal(want[:, order])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", [None, 129])
def test_thread_counts_do_not_matter(isa: str, window: int | None, dtype) -> None:
    before = torch.get_num_threads()
    results = []
    q, k, v, sink = tokens(4500, HEADS[1], dtype)
    cache = filled_cache([k[:4400]], [v[:4400]], window)
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            assert _C.max_threads() == threads
            part = slice(3900, 4500)  # few tiles over three runs of keys: split where threads allow
            late = ops.attention(
                q[None, part], k[None], v[None], window_keys=window, sink=sink, return_lse=True
            )
            new = q[None, 4400:4401], k[None, 4400:4401], v[None, 4400:4401]
            step = ops.attention_cached(*new, cache, window_keys=window, sink=sink, return_lse=True)
            results.append((*late, *step))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))
    assert results[0][2][0, 0].equal(results[0][0][0, 500])
