"""Attention's kernels as subjects: forward and merge, and the commit of a cache."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import ops, reference
from ...cache import GlobalLayerCache, LayerCache, RingLayerCache
from ..gpu import SimulatedGpu
from .subjects import register

Case = Callable[[SimulatedGpu], None]
_BF16 = torch.bfloat16


def _tensors(
    tokens: int,
    keys: int,
    heads: int,
    groups: int,
    qk: int,
    v: int,
    dtype: torch.dtype = _BF16,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens * 1009 + keys)
    sizes = ((tokens, heads, qk), (keys, groups, qk), (keys, groups, v))
    return [torch.randn(*size, generator=generator).to(dtype) for size in sizes]


def _compare(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    tolerance = 0.02 if got[0].dtype == _BF16 else 1e-5
    torch.testing.assert_close(got[0].double(), want[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got[1].double(), want[1], rtol=1e-4, atol=1e-4)


def _sinks(heads: int) -> Tensor:
    return torch.linspace(-2, 2, heads)


def _varlen(
    q_lens: tuple[int, ...],
    k_lens: tuple[int, ...] | None = None,
    *,
    heads: int = 3,
    groups: int = 1,
    qk: int = 24,
    v: int = 16,
    window: int | None = None,
    sink: bool = True,
    wide: bool = False,
    dtype: torch.dtype = _BF16,
) -> Case:
    """Documents; ``wide``: edges of 64 bits. Keys that nobody asks for are NaN."""

    def case(_: SimulatedGpu) -> None:
        lens = [q_lens, q_lens if k_lens is None else k_lens]
        q, k, value = _tensors(sum(lens[0]), sum(lens[1]), heads, groups, qk, v, dtype)
        kind = torch.int64 if wide else torch.int32
        edges = [torch.tensor([0, *n]).cumsum(0).to(kind) for n in lens]
        for document, queries in enumerate(q_lens):
            if not queries:
                k[slice(*edges[1][document : document + 2])] = torch.nan
                value[slice(*edges[1][document : document + 2])] = torch.nan
        options = {"cu_seqlens_q": edges[0], "cu_seqlens_k": edges[1], "window_keys": window,
                   "sink": _sinks(heads) if sink else None, "return_lse": True}  # fmt: skip
        got = ops.attention_varlen(q, k, value, **options)
        wider = (t.double() for t in (q, k, value))
        _compare(got, reference.attention_varlen(*wider, **options))

    return case


def _dense(
    queries: int,
    keys: int,
    *,
    batch: int = 1,
    lens: tuple[int, ...] | None = None,
    causal: bool = True,
    heads: int = 3,
    qk: int = 24,
    v: int = 16,
    sink: torch.dtype | None = None,
    dtype: torch.dtype = _BF16,
) -> Case:
    def case(_: SimulatedGpu) -> None:
        tensors = _tensors(batch * queries, batch * keys, heads, 1, qk, v, dtype)
        q, k, value = (t.unflatten(0, (batch, -1)) for t in tensors)
        options = {"causal": causal, "kv_lens": None if lens is None else torch.tensor(lens),
                   "sink": None if sink is None else _sinks(heads).to(sink),
                   "return_lse": True}  # fmt: skip
        got = ops.attention(q, k, value, **options)
        options["sink"] = None if sink is None else options["sink"].double()
        _compare(got, reference.attention(*(t.double() for t in (q, k, value)), **options))

    return case


def _spoil(cache: LayerCache, window: int | None) -> None:
    """NaN in every place of a cache that no new query sees."""
    for row, length in enumerate(cache.lengths.tolist()):
        seen = range(0 if window is None else max(0, length - window + 1), length)
        places = torch.tensor(sorted({p % cache.capacity for p in seen}), dtype=torch.int64)
        unseen = torch.ones(cache.capacity, dtype=torch.bool).index_fill(0, places, value=False)
        cache.keys[row, :, unseen] = torch.nan
        cache.values[row, :, unseen] = torch.nan


class _Stored:
    """What a cache holds, as the reference asks for it."""

    def __init__(self, cache: LayerCache) -> None:
        self.unpacked_rows = [cache.unpacked(row) for row in range(cache.rows)]

    def unpacked(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        k, v, positions = self.unpacked_rows[row]
        return k.double(), v.double(), positions

    def as_stored(self, x: Tensor) -> Tensor:
        return x


# Parents of a tree with branches at several depths.
_PARENTS = (-1, 0, 0, 1, 1, 2, 3, 6, 7, 4)


def _masks(nodes: int) -> list[int]:
    masks: list[int] = []
    for node in range(nodes):
        parent = _PARENTS[node % len(_PARENTS)] if node < len(_PARENTS) else node - 1
        masks.append((masks[parent] if parent >= 0 else 0) | 1 << node)
    return [mask - (1 << 64) if mask >> 63 else mask for mask in masks]


def _cached(
    committed: tuple[int, ...],
    new: tuple[int, ...],
    *,
    heads: int = 3,
    groups: int = 1,
    qk: int = 24,
    v: int = 16,
    window: int | None = None,
    tree: bool = False,
    capacity: int = 1300,
    dtype: torch.dtype = _BF16,
) -> Case:
    def case(_: SimulatedGpu) -> None:
        sizes = {"num_kv_heads": groups, "head_dim": qk, "v_head_dim": v, "dtype": dtype}
        cache = (
            GlobalLayerCache(len(committed), capacity, **sizes)
            if window is None
            else RingLayerCache(len(committed), window, **sizes)
        )
        _, k_old, v_old = _tensors(0, sum(committed), heads, groups, qk, v, dtype)
        cache.commit(k_old, v_old, cu_seqlens_q=torch.tensor([0, *committed]).cumsum(0))
        q, k, value = _tensors(sum(new), sum(new), heads, groups, qk, v, dtype)
        masks = torch.tensor([m for n in new for m in _masks(n)]) if tree else None
        options = {"cu_seqlens_q": torch.tensor([0, *new]).cumsum(0), "window_keys": window,
                   "sink": _sinks(heads), "ancestors": masks, "return_lse": True}  # fmt: skip
        stored = _Stored(cache)
        _spoil(cache, window)
        got = ops.attention_cached(q, k, value, cache, **options)
        wider = (t.double() for t in (q, k, value))
        _compare(got, reference.attention_cached(*wider, stored, **options))

    return case


_RELEASED = {"qk": 192, "v": 128}
_SHARED = {"heads": 8, "groups": 1}  # few rows: the warps share them

# Blocks of 64 rows where the query heads of a kv head are more than 16, else of 16 rows; one token
# in each, so that all of its rows see the same keys, whose ends lie everywhere in a tile.
_ENDS = tuple(range(60, 132, 3))


def _edges(heads: int, **sizes: Any) -> list[Case]:
    """The ends of what is seen in every column of a tile, of keys old and new, and beside keys that
    are NaN; trees; every kind of call."""
    between = tuple(n for end in _ENDS for n in (end, 1))
    options = {"heads": heads, **sizes}
    return [
        _varlen((1, 0) * len(_ENDS), between, window=9, wide=True, **options),
        _varlen((1,) * 3, (9, 64, 100), sink=False, **options),
        _cached(_ENDS, (1,) * len(_ENDS), window=9, **options),
        _cached(_ENDS, (1,) * len(_ENDS), **options),
        _cached((70, 0), (40, 5), tree=True, window=5, **options),
        _cached((3,), (64,), tree=True, **options),
        _cached((9, 70), (3, 5), tree=True, **options | {"heads": heads // 2}),
        _cached((1100, 0, 70), (1, 1, 1), **options | {"heads": heads // 2}),
        _dense(2, 70, batch=3, lens=(70, 64, 5), sink=_BF16, **options),
        _dense(3, 66, causal=False, sink=torch.float32, **options),
    ]


# Keys for 2 to 8 splits: they are merged four at a time.
_SPLIT_KEYS = (512, 768, 1024, 1300, 1536, 1800, 2048)


def _splits(dtype: torch.dtype) -> list[Case]:
    """Merges, with sinks of both kinds and none; a split without keys, beside a tree's masks, which
    know no tile; a full cache, whose last row ends it, and dims that end within a wide step."""
    return [
        *(_dense(1, keys, heads=1, qk=8, v=8, dtype=dtype) for keys in _SPLIT_KEYS),
        *(
            _dense(1, 512, heads=heads, qk=8, v=v, sink=sink, dtype=dtype)
            for heads, v, sink in ((5, 24, _BF16), (3, 128, torch.float32), (20, 40, None))
        ),
        *(
            case
            for heads in (3, 20)
            for case in (
                _cached((1100, 0), (1, 3), heads=heads, tree=True, dtype=dtype),
                _cached((3, 64), (1, 1), heads=heads, qk=40, v=40, capacity=64, dtype=dtype),
            )
        ),
    ]


# Head dims whose steps and columns end everywhere in the unrolled loops.
_SIZES = tuple(
    {"qk": 32 * i - 24 if i < 8 else 256, "v": 16 * i - 8 * (i % 2)} for i in range(1, 9)
)

register(
    "attention",
    _varlen((5, 0, 70, 1), window=7),
    _varlen((3, 0, 20, 2), (3, 9, 100, 0), window=30, wide=True),
    _varlen((130,), sink=False, heads=2, groups=2),
    _varlen((33, 40), heads=16, groups=2, window=64, **_RELEASED),
    _varlen((2, 1), heads=8, groups=2, window=65, **_RELEASED),
    _dense(20, 7),
    _dense(9, 70, batch=3, lens=(70, 64, 5), sink=_BF16),
    _dense(33, 65, causal=False, sink=torch.float32),
    _dense(1, 1300, heads=8),
    _cached((130, 63, 0, 200), (1, 2, 1, 1), **_SHARED),
    _cached((300, 0, 7), (1, 9, 0), window=9, **_SHARED),
    _cached((1100,), (1,), **_SHARED, **_RELEASED),
    _cached((1100,), (9,), **_SHARED, **_RELEASED),
    _cached((310, 2, 64), (10, 30, 1), window=5, tree=True),
    _cached((1100,), (64,), heads=2, tree=True),
    _cached((70,), (10,), tree=True, **_SHARED, **_RELEASED),
    # The edge of a window in every column of a tile, in every kernel.
    _varlen((140,), heads=8, window=9, **_RELEASED),
    _varlen((140,), heads=2, window=9),
    _cached(tuple(range(60, 132, 3)), (1,) * 24, window=9, **_SHARED),
    _cached(tuple(range(60, 132, 3)), (1,) * 24, window=9, **_SHARED, **_RELEASED),
    # Splits of few rows, of several sequences, without a sink.
    _dense(1, 1300, batch=2, heads=3, v=72),
    _dense(1, 1300, batch=3, heads=1, sink=torch.float32),
    *_edges(16),
    *_edges(16, **_RELEASED),
    *_edges(20),
    *_edges(20, **_RELEASED),
    # A split without any keys.
    _cached((1100, 0, 70), (1, 1, 1), heads=20),
    _cached((1100, 0, 70), (1, 1, 1), heads=20, **_RELEASED),
    # A block of one row behind one of many.
    _varlen((70, 1), heads=1),
    _varlen((70, 1), heads=1, **_RELEASED),
    # Several tokens in a block, whose windows begin in every column.
    _varlen((70, 70), (70, 74), heads=2, window=9, **_RELEASED),
    _cached((130, 5), (64, 0), heads=1, window=3, tree=True),
    _cached((130, 5), (64, 0), heads=1, window=3, tree=True, **_RELEASED),
    *(
        _cached((9, 70), (3, nodes), heads=1, tree=True, **sizes)
        for nodes in (5, 11)
        for sizes in ({}, _RELEASED)
    ),
    _cached((130,), (64,), heads=2, window=2, tree=True),
    _cached((130,), (64,), heads=2, window=2, tree=True, **_RELEASED),
    *(_varlen((3,), (64,), heads=heads, **sizes) for heads in (5, 20) for sizes in _SIZES),
    *_splits(_BF16),
    *(
        case
        for heads in (4, 20)
        for case in (
            _cached((70, 300), (3, 1), heads=heads, qk=136, v=104),
            _varlen((2, 1), (130, 90), heads=heads, qk=136, v=104),
            _varlen((3,), (64,), heads=heads, qk=64),
        )
    ),
    only=("forward_sm80", "merge_kernelI13__nv_bfloat16"),
)
register(
    "attention_f32",
    _varlen((5, 0, 70, 1), window=7, dtype=torch.float32),
    _varlen((3, 0, 20, 2), (3, 9, 100, 0), heads=20, v=72, dtype=torch.float32, wide=True),
    _cached((300, 0, 7), (1, 9, 0), window=9, dtype=torch.float32, **_SHARED),
    _cached((70, 3), (10, 1), tree=True, heads=2, v=128, dtype=torch.float32),
    _cached((1100,), (2,), heads=20, dtype=torch.float32),
    *_edges(16, dtype=torch.float32),
    *_edges(20, dtype=torch.float32),
    *_splits(torch.float32),
    *(_varlen((3,), heads=2, dtype=torch.float32, **sizes) for sizes in _SIZES),
    *(  # the most that fits into shared memory
        _varlen((3,), heads=20, qk=min(sizes["qk"], 168), v=sizes["v"], dtype=torch.float32)
        for sizes in _SIZES
    ),
    *(
        _dense(1, 1300, batch=batch, heads=heads, v=v, sink=sink, dtype=torch.float32)
        for batch, heads, v, sink in (
            (2, 3, 72, None),
            (3, 1, 16, _BF16),
            (1, 8, 128, torch.float32),
        )
    ),
    only=("forward_f32_sm80", "merge_kernelIf"),
)


def _commit(
    window: int | None, *counts: tuple[int, ...], heads: int = 2, qk: int = 24, v_dim: int = 16
) -> Case:
    """Several commits, the last of a path; what is read back is what was committed."""

    def case(_: SimulatedGpu) -> None:
        sizes = {"num_kv_heads": heads, "head_dim": qk, "v_head_dim": v_dim}
        rows = len(counts[0])
        cache: LayerCache
        if window is None:
            cache = GlobalLayerCache(rows, 200, **sizes)
        else:
            cache = RingLayerCache(rows, window, **sizes)
        held: list[list[Tensor]] = [[] for _ in range(rows)]
        for step, count in enumerate(counts):
            _, k, v = _tensors(step, sum(count), heads, heads, qk, v_dim)
            edges = [0, *torch.tensor(count).cumsum(0).tolist()]
            taken = None
            if step == len(counts) - 1:
                taken = [edges[row] + i for row in range(rows) for i in range(count[row] // 2)]
            cache.commit(
                k, v, None if taken is None else torch.tensor(taken),
                cu_seqlens_q=torch.tensor(edges),
            )  # fmt: skip
            for row in range(rows):
                end = edges[row + 1] if taken is None else edges[row] + count[row] // 2
                held[row] += list(zip(k[edges[row] : end], v[edges[row] : end], strict=True))
        for row in range(rows):
            k, v, positions = cache.unpacked(row)
            expected = held[row][len(held[row]) - len(positions) :]
            assert len(positions) >= min(len(held[row]), (window or 1 << 30) - 1)
            for i, (key, value) in enumerate(expected):
                assert torch.equal(k[i], key)
                assert torch.equal(v[i], value)

    return case


register(
    "cache_commit",
    _commit(None, (3, 0, 70), (1, 1, 1), (4, 2, 6)),
    _commit(65, (3, 0, 150), (1, 70, 1), (4, 2, 6)),
    _commit(130, (200, 128), (3, 2)),
    _commit(65, (200, 5)),
    _commit(None, (3, 2), (1, 1), heads=16, qk=32, v_dim=32),  # a load for each thread
)
