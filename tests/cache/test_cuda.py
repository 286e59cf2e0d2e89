"""Caches of a simulated GPU hold what caches of the CPU hold, and refuse what they refuse."""

import importlib.util
import random

import pytest
import torch

import mimo_native as mn
from mimo_native.cache import GlobalLayerCache, LayerCache, RingLayerCache
from mimo_native.cache.layer import write
from mimo_native.testing import simulated_gpu

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
SIZES = {"num_kv_heads": 2, "head_dim": 24, "v_head_dim": 16}
ROWS = 3


def make(window: int | None, max_tokens: int = 400) -> LayerCache:
    if window is None:
        return GlobalLayerCache(ROWS, max_tokens, **SIZES)
    return RingLayerCache(ROWS, window, **SIZES)


def tree_path(rng: random.Random, nodes: int) -> tuple[list[int], list[int]]:
    """Ancestor masks of a random tree and a random path from its root."""
    masks: list[int] = []
    for node in range(nodes):
        masks.append((masks[rng.randrange(node)] if node else 0) | 1 << node)
    leaf = masks[rng.randrange(nodes)]
    return masks, [node for node in range(nodes) if leaf >> node & 1]


@pytest.mark.parametrize("window", [None, 1, 65, 100])
@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_commits_equal_those_of_the_cpu(window: int | None, schedule: str) -> None:
    rng = random.Random(5)
    generator = torch.Generator().manual_seed(5)
    here = make(window)
    with simulated_gpu(capability=(8, 0), schedule=schedule):
        there = make(window)
        for step in range(8):
            counts = [rng.choice((0, 1, 7, 130 if step < 2 else 20)) for _ in range(ROWS)]
            edges = torch.tensor([0, *counts]).cumsum(0)
            k = torch.randn(sum(counts), 2, 24, generator=generator).bfloat16()
            # A view of something wider, as of a fused projection.
            v = torch.randn(sum(counts), 2, 40, generator=generator).bfloat16()[..., :16]
            rows = masks = None
            if step % 2 and max(counts) <= 20:
                trees = [tree_path(rng, n) if n else ([], []) for n in counts]
                masks = torch.tensor([m for tree, _ in trees for m in tree], dtype=torch.int64)
                starts = edges.tolist()
                paths = zip(starts, (path for _, path in trees), strict=False)
                rows = torch.tensor([start + i for start, path in paths for i in path])
                rows = rows.to(torch.int64)
            for cache in (here, there):
                cache.commit(k, v, rows, cu_seqlens_q=edges, ancestors=masks)
        assert not here.plain
        assert there.plain
        assert torch.equal(here.lengths, there.lengths)
        for row in range(ROWS):
            for ours, theirs in zip(there.unpacked(row), here.unpacked(row), strict=True):
                assert torch.equal(ours, theirs)


REFUSED = {
    "too many": ({"cu_seqlens_q": torch.tensor([0, 0, 9, 9])}, "room"),
    "edges of other rows": ({"cu_seqlens_q": torch.tensor([0, 9])}, "cu_seqlens"),
    "falling edges": ({"cu_seqlens_q": torch.tensor([0, 9, 3, 9])}, "cu_seqlens"),
    "not the first tokens": ({"rows": torch.tensor([1])}, "rows"),
    "an index beyond": ({"rows": torch.tensor([0, 9])}, "rows"),
    "no path": ({"rows": torch.tensor([0, 2]), "ancestors": True}, "rows"),
    "another dtype": ({"k": torch.ones(9, 2, 24)}, "k_new"),
    "another head count": ({"v": torch.ones(9, 1, 16).bfloat16()}, "v_new"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_commit_changes_nothing(name: str) -> None:
    changes, argument = REFUSED[name]
    args = {
        "k": torch.ones(9, 2, 24).bfloat16(),
        "v": torch.ones(9, 2, 16).bfloat16(),
        "cu_seqlens_q": torch.tensor([0, 9, 9, 9]),
        "rows": None,
        "ancestors": None,
    } | changes
    if args["ancestors"]:
        args["ancestors"] = torch.tensor([1, 3, 7, 15, 31, 63, 127, 255, 511])
    k, v, rows = (args.pop(name) for name in ("k", "v", "rows"))
    with simulated_gpu() as gpu:
        cache = make(None, max_tokens=8 if argument == "room" else 64)
        with pytest.raises(mn.ShapeError) as caught:
            cache.commit(k, v, rows, **args)
        assert caught.value.argument == ("rows" if argument == "room" else argument)
        assert not gpu.launches
        assert not cache.lengths.any()


def test_codes_are_not_held() -> None:
    with simulated_gpu(), pytest.raises(mn.UnsupportedError, match="holds what is computed"):
        GlobalLayerCache(1, 64, **SIZES, kv_format="int8")


@pytest.mark.parametrize("dims", [(12, 16), (16, 4)])
def test_head_dims_that_no_kernel_serves(dims: tuple[int, int]) -> None:
    sizes = {"num_kv_heads": 2, "head_dim": dims[0], "v_head_dim": dims[1]}
    with simulated_gpu(), pytest.raises(mn.UnsupportedError, match="multiples of 8"):
        GlobalLayerCache(1, 64, **sizes)


def test_float32_is_held() -> None:
    k, v = torch.randn(2, 70, 2, 24), torch.randn(2, 70, 2, 16)
    with simulated_gpu():
        cache = GlobalLayerCache(2, 90, **SIZES, dtype=torch.float32)
        cache.commit(k, v)
        for row in range(2):
            ours = cache.unpacked(row)
            assert torch.equal(ours[0], k[row])
            assert torch.equal(ours[1], v[row])


@pytest.mark.parametrize("change", ["nothing", "other keys", "lengths", "a tree", "a cut"])
def test_tokens_stored_ahead_are_copied_only_where_they_must_be(change: str) -> None:
    k, v = torch.randn(1, 7, 2, 24).bfloat16(), torch.randn(1, 7, 2, 16).bfloat16()
    k, v, edges = k[0], v[0], torch.tensor([0, 7, 7, 7])
    with simulated_gpu(capability=(8, 0)) as gpu:
        cache = make(None)
        cache.commit(k, v, cu_seqlens_q=edges)
        gpu.launches.clear()
        cache.write_ahead(k, v, torch.zeros(7, dtype=torch.int64), torch.arange(7, 14))
        cache.note_ahead(k, v)
        begin, ancestors = 7, None
        if change == "other keys":
            k = k + 1
        elif change == "lengths":
            begin = int(cache.lengths[0].sub_(3))
        elif change == "a cut":
            cache.truncate(0, 7)
        elif change == "a tree":
            ancestors = (1 << torch.arange(1, 8)) - 1
        cache.commit(k, v, cu_seqlens_q=edges, ancestors=ancestors)
        assert len(gpu.launches) == (change != "nothing")
        cache.note_ahead(k, v)
        cache.commit(k, v, cu_seqlens_q=edges)
        keys, values, _ = cache.unpacked(0)
    assert int(cache.lengths[0]) == begin + 14
    assert torch.equal(keys[begin : begin + 7], k)
    assert torch.equal(values[begin : begin + 7], v)


def test_many_layers_are_committed_together() -> None:
    """More than fit into a launch, of two shapes."""
    sizes = ({"heads": 2, "qk": 24, "v": 16}, {"heads": 1, "qk": 16, "v": 8})
    new = [
        (
            torch.randn(9, s["heads"], s["qk"]).bfloat16(),
            torch.randn(9, s["heads"], s["v"]).bfloat16(),
        )
        for s in (sizes[i % 2] for i in range(35))
    ]
    with simulated_gpu(capability=(8, 0)) as gpu:
        lengths = torch.zeros(ROWS, dtype=torch.int64)
        layers = [
            GlobalLayerCache(
                ROWS, 64 + 64 * (i % 3), num_kv_heads=k.shape[1], head_dim=k.shape[2],
                v_head_dim=v.shape[2], lengths=lengths,
            )
            for i, (k, v) in enumerate(new)
        ]  # fmt: skip
        steps = [(c, k, v) for c, (k, v) in zip(layers, new, strict=True)]
        write(steps, lengths, torch.tensor([0, 4, 4, 9]), None, None, None)
        assert len(gpu.launches) == 2
        for cache, k, v in steps:
            for row, span in ((0, slice(0, 4)), (2, slice(4, 9))):
                keys, values, _ = cache.unpacked(row)
                assert torch.equal(keys, k[span])
                assert torch.equal(values, v[span])
