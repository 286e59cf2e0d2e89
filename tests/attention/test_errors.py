"""What does not fit is refused by name, before anything is computed or written."""

import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, UnsupportedError, ops

from .caches import filled_cache


def dense(**changes: object) -> dict[str, object]:
    args = {
        "q": torch.randn(2, 5, 4, 8),
        "k": torch.randn(2, 7, 2, 8),
        "v": torch.randn(2, 7, 2, 6),
    }
    return {**args, **changes}


DENSE = {
    "q of three dims": ({"q": torch.randn(5, 4, 8)}, "q"),
    "q without dims": ({"q": torch.tensor(1.0)}, "q"),
    "k of another batch": ({"k": torch.randn(3, 7, 2, 8)}, "k"),
    "k of another head dim": ({"k": torch.randn(2, 7, 2, 9)}, "k"),
    "v of other keys": ({"v": torch.randn(2, 6, 2, 6)}, "v"),
    "v of other heads": ({"v": torch.randn(2, 7, 1, 6)}, "v"),
    "v without dims": ({"v": torch.tensor(1.0)}, "v"),
    "kv heads that do not divide": (
        {"k": torch.randn(2, 7, 3, 8), "v": torch.randn(2, 7, 3, 6)},
        "k",
    ),
    "no kv heads": ({"k": torch.randn(2, 7, 0, 8), "v": torch.randn(2, 7, 0, 6)}, "k"),
    "no head dim": ({"v": torch.randn(2, 7, 2, 0)}, "v"),
    "mixed dtypes": ({"k": torch.randn(2, 7, 2, 8).bfloat16()}, "k"),
    "strided head dim": ({"q": torch.randn(2, 5, 4, 16)[..., ::2]}, "q"),
    "window of 0": ({"window_keys": 0}, "window_keys"),
    "negative window": ({"window_keys": -5}, "window_keys"),
    "window without causal": ({"window_keys": 3, "causal": False}, "causal"),
    "scale of 0": ({"scale": 0.0}, "scale"),
    "negative scale": ({"scale": -1.0}, "scale"),
    "infinite scale": ({"scale": float("inf")}, "scale"),
    "too few sinks": ({"sink": torch.zeros(3)}, "sink"),
    "sink of float64": ({"sink": torch.zeros(4, dtype=torch.float64)}, "sink"),
    "sink of nan": ({"sink": torch.full((4,), torch.nan)}, "sink"),
    "sink of inf": ({"sink": torch.full((4,), torch.inf)}, "sink"),
    "kv_lens of another batch": ({"kv_lens": torch.tensor([1])}, "kv_lens"),
    "kv_lens beyond the keys": ({"kv_lens": torch.tensor([1, 8])}, "kv_lens"),
    "negative kv_lens": ({"kv_lens": torch.tensor([-1, 3])}, "kv_lens"),
    "kv_lens of floats": ({"kv_lens": torch.tensor([1.0, 3.0])}, "kv_lens"),
}


@pytest.mark.parametrize("name", DENSE)
def test_attention_refuses(name: str) -> None:
    changes, argument = DENSE[name]
    with pytest.raises(ShapeError, match=r"^attention: ") as caught:
        ops.attention(**dense(**changes), return_lse=True)
    assert caught.value.argument == argument
    assert caught.value.expected
    assert caught.value.got


def test_float64_and_gradients_name_the_reference() -> None:
    for change in ({"q": torch.randn(2, 5, 4, 8).double()}, {"q": torch.randn(2, 5, 4, 8).half()}):
        with pytest.raises(UnsupportedError, match="reference"):
            ops.attention(**dense(**change))


def packed(**changes: object) -> dict[str, object]:
    edges_q, edges_k = torch.tensor([0, 2, 5]), torch.tensor([0, 3, 7])
    args = {
        "q": torch.randn(5, 4, 8),
        "k": torch.randn(7, 2, 8),
        "v": torch.randn(7, 2, 6),
        "cu_seqlens_q": edges_q,
        "cu_seqlens_k": edges_k,
    }
    return {**args, **changes}


PACKED = {
    "dense q": ({"q": torch.randn(1, 5, 4, 8)}, "q"),
    "dense k": ({"k": torch.randn(1, 7, 2, 8)}, "k"),
    "edges that stop early": ({"cu_seqlens_q": torch.tensor([0, 2, 4])}, "cu_seqlens_q"),
    "edges that start late": ({"cu_seqlens_k": torch.tensor([1, 3, 7])}, "cu_seqlens_k"),
    "edges that fall": ({"cu_seqlens_k": torch.tensor([0, 8, 7])}, "cu_seqlens_k"),
    "no edges": ({"cu_seqlens_q": torch.tensor([], dtype=torch.int64)}, "cu_seqlens_q"),
    "edges of floats": ({"cu_seqlens_q": torch.tensor([0.0, 2, 5])}, "cu_seqlens_q"),
    "another number of documents": ({"cu_seqlens_k": torch.tensor([0, 7])}, "cu_seqlens_k"),
}


@pytest.mark.parametrize("name", PACKED)
def test_attention_varlen_refuses(name: str) -> None:
    changes, argument = PACKED[name]
    with pytest.raises(ShapeError, match=r"^attention_varlen: ") as caught:
        ops.attention_varlen(**packed(**changes))
    assert caught.value.argument == argument


def cached(**changes: object) -> dict[str, object]:
    k, v = torch.randn(70, 2, 8), torch.randn(70, 2, 6)
    args = {
        "q": torch.randn(2, 3, 4, 8),
        "k_new": torch.randn(2, 3, 2, 8),
        "v_new": torch.randn(2, 3, 2, 6),
        "layer_cache": filled_cache([k, k[:9]], [v, v[:9]], 65),
        "window_keys": 65,
    }
    return {**args, **changes}


def masks(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)


CHAIN = [1, 3, 7]
WIDE = {"q": torch.randn(2, 65, 4, 8), "k_new": torch.randn(2, 65, 2, 8)}
CACHED = {
    "another batch": ({"q": torch.randn(3, 3, 4, 8)}, "k_new"),
    "fewer new keys": ({"k_new": torch.randn(2, 2, 2, 8)}, "v_new"),
    "another kv head count": ({"k_new": torch.randn(2, 3, 1, 8), "v_new": torch.randn(2, 3, 1, 6)},
                              "layer_cache.keys"),
    "another head dim": ({"q": torch.randn(2, 3, 4, 10), "k_new": torch.randn(2, 3, 2, 10)},
                         "k_new"),
    "another dtype": ({n: torch.randn(2, 3, h, d).bfloat16()
                       for n, h, d in (("q", 4, 8), ("k_new", 2, 8), ("v_new", 2, 6))},
                      "layer_cache.keys"),
    "another value dim": ({"v_new": torch.randn(2, 3, 2, 7)}, "v_new"),
    "packed without edges": ({"q": torch.randn(6, 4, 8)}, "q"),
    "edges of another row count": ({"q": torch.randn(6, 4, 8), "k_new": torch.randn(6, 2, 8),
                                    "v_new": torch.randn(6, 2, 6),
                                    "cu_seqlens_q": torch.tensor([0, 6])}, "cu_seqlens_q"),
    "no window over a ring": ({"window_keys": None}, "window_keys"),
    "a window that the ring cannot hold": ({"window_keys": 66}, "window_keys"),
    "negative window": ({"window_keys": -1}, "window_keys"),
    "wrong positions": ({"q_positions": torch.tensor([[70, 71, 72], [9, 10, 12]])}, "q_positions"),
    "positions of another shape": ({"q_positions": torch.tensor([70, 71, 72])}, "q_positions"),
    "tree positions of a chain": ({"ancestors": masks([1, 3, 5], CHAIN),
                                   "q_positions": torch.tensor([[70, 71, 72], [9, 10, 11]])},
                                  "q_positions"),
    "ancestors of another shape": ({"ancestors": masks(CHAIN)}, "ancestors"),
    "no own bit": ({"ancestors": masks([1, 1, 7], CHAIN)}, "ancestors"),
    "cyclic ancestors": ({"ancestors": masks([3, 3, 7], CHAIN)}, "ancestors"),
    "an ancestor beyond the row": ({"ancestors": masks([9, 3, 7], CHAIN)}, "ancestors"),
    "ancestors of an ancestor left out": ({"ancestors": masks([1, 3, 6], CHAIN)}, "ancestors"),
    "two parents": ({"ancestors": masks([1, 2, 7], CHAIN)}, "ancestors"),
    "65 nodes": ({**WIDE, "v_new": torch.randn(2, 65, 2, 6),
                  "ancestors": torch.ones(2, 65, dtype=torch.int64)}, "ancestors"),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHED)
def test_attention_cached_refuses(name: str) -> None:
    changes, argument = CACHED[name]
    with pytest.raises(ShapeError, match=r"^attention_cached: ") as caught:
        ops.attention_cached(**cached(**changes))
    assert caught.value.argument == argument


def test_right_positions_are_accepted() -> None:
    plain = ops.attention_cached(**cached())
    assert plain.shape == (2, 3, 4, 6)
    ops.attention_cached(**cached(q_positions=torch.tensor([[70, 71, 72], [9, 10, 11]])))
    tree = masks([1, 3, 5], CHAIN)
    at = torch.tensor([[70, 71, 71], [9, 10, 11]])
    ops.attention_cached(**cached(ancestors=tree, q_positions=at))


def test_attention_cached_writes_nothing() -> None:
    args = cached()
    cache = args["layer_cache"]
    before = [t.clone() for t in (cache.lengths, cache.held_from, cache.keys, cache.values)]
    ops.attention_cached(**args)
    after = (cache.lengths, cache.held_from, cache.keys, cache.values)
    assert all(
        a.view(torch.uint8).equal(b.view(torch.uint8)) for a, b in zip(before, after, strict=True)
    )
