"""The window is exact to the key, on sequences that are longer than it, in every kind of call."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mimo_native import ops

from .caches import filled_cache

N = 330
WINDOWS = (1, 2, 127, 128, 129)
Call = Callable[[Tensor, Tensor, Tensor, int, Tensor], Tensor]


def prefill(q: Tensor, k: Tensor, v: Tensor, window: int, sink: Tensor) -> Tensor:
    return ops.attention(q[None], k[None], v[None], window_keys=window, sink=sink)[0]


def packed(q: Tensor, k: Tensor, v: Tensor, window: int, sink: Tensor) -> Tensor:
    """The sequence is the second document."""
    lead = 70
    q, k, v = (torch.cat((t[:lead], t)) for t in (q, k, v))
    edges = torch.tensor([0, lead, lead + N])
    options = {"cu_seqlens_q": edges, "cu_seqlens_k": edges, "window_keys": window, "sink": sink}
    return ops.attention_varlen(q, k, v, **options)[lead:]


def cached(committed: int, tree: bool) -> Call:
    """Tokens from ``committed`` on in one step; the result's earlier rows are those of prefill."""

    def call(q: Tensor, k: Tensor, v: Tensor, window: int, sink: Tensor) -> Tensor:
        cache = filled_cache([k[:committed]], [v[:committed]], window)
        new = (t[None, committed:] for t in (q, k, v))
        chain = torch.tensor([[(1 << i + 1) - 1 for i in range(N - committed)]]) if tree else None
        options = {"window_keys": window, "sink": sink, "ancestors": chain}
        o = ops.attention_cached(*new, cache, **options)[0]
        return torch.cat((prefill(q, k, v, window, sink)[:committed], o))

    return call


CALLS = {
    "prefill": prefill,
    "packed": packed,
    "decode": cached(N - 1, tree=False),
    "chunk": cached(N - 150, tree=False),
    "tree": cached(N - 60, tree=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", CALLS)
def test_a_key_changes_its_window_and_no_other_row(name: str, window: int, dtype) -> None:
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(N, h, 24, generator=gen).to(dtype) for h in (4, 2, 2))
    sink, call = torch.linspace(-2, 2, 4), CALLS[name]
    before = call(q, k, v, window, sink)
    # Keys whose windows begin, end and cross blocks of 64, vectors of 16 and the last row's edge.
    for j in {0, 15, 16, 63, 64, 127, 128, 200, N - window - 1, N - window, N - window + 1, N - 1}:
        if not 0 <= j < N:
            continue
        other_k, other_v = k.clone(), v.clone()
        other_k[j] += 1
        other_v[j] -= 1
        changed = (call(q, other_k, other_v, window, sink) != before).flatten(1).any(1)
        rows = torch.arange(N)
        assert torch.equal(changed, (rows >= j) & (rows < j + window)), f"key {j}"


@pytest.mark.parametrize("window", [N, N + 1, 10**9, 2**62])
def test_a_window_wider_than_the_sequence_is_no_window(window: int) -> None:
    q, k, v = (torch.randn(N, h, 24) for h in (4, 2, 2))
    sink = torch.zeros(4)
    want = ops.attention(q[None], k[None], v[None], sink=sink)[0]
    assert torch.equal(prefill(q, k, v, window, sink), want)


def test_global_rows_see_all_keys_before_and_none_after() -> None:
    q, k, v = (torch.randn(N, h, 24) for h in (4, 2, 2))
    before = ops.attention(q[None], k[None], v[None])[0]
    for j in (0, 63, 64, 200, N - 1):
        other = v.clone()
        other[j] += 1
        changed = (ops.attention(q[None], k[None], other[None])[0] != before).flatten(1).any(1)
        assert torch.equal(changed, torch.arange(N) >= j)
