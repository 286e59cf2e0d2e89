"""Peers of attention: the band in plain torch, SDPA, compiled flex_attention, vLLM's CPU kernel.

q [T, Hq, D], k [S, Hkv, D], v [S, Hkv, Dv]; the last query stands at the last key.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .vllm import vllm_kernels

__all__ = ["flex_window", "sdpa_causal", "torch_band", "torch_decode", "vllm_attention"]

_BLOCK = 128  # keys per page of vLLM's cache


def torch_band(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, window: int) -> Tensor:
    """Chunks of window - 1 queries over the two chunks of keys they see; one kv head."""
    n, heads, dim = q.shape
    size = window - 1
    chunks = -(-n // size)
    rest = chunks * size - n
    q = F.pad(q * dim**-0.5, (0, 0, 0, 0, 0, rest)).unflatten(0, (chunks, size))
    k, v = (F.pad(x[:, 0], (0, 0, size, rest)).unfold(0, 2 * size, size) for x in (k, v))
    scores = (q.transpose(1, 2).flatten(1, 2) @ k).unflatten(1, (heads, size)).float()
    i, j = torch.arange(size)[:, None], torch.arange(2 * size)
    seen = (j <= i + size) & (j >= i)
    first = seen & (j >= size)
    seen = torch.cat((first[None], seen.expand(chunks - 1, -1, -1)))[:, None]
    scores = scores.masked_fill(~seen, -torch.inf)
    scores = torch.cat((scores, sink[:, None, None].expand(chunks, -1, size, 1)), -1)
    p = scores.softmax(-1)[..., :-1].to(v.dtype)
    o = (p.flatten(1, 2) @ v.transpose(1, 2)).unflatten(1, (heads, size))
    return o.transpose(1, 2).flatten(0, 1)[:n]


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return o[0].transpose(0, 1)


def torch_decode(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """One query; the query heads of a kv head as rows of one product. k and v [Hkv, S, D]."""
    groups = k.shape[0]
    q = q[0].unflatten(0, (groups, -1)) * q.shape[-1] ** -0.5
    scores = (q @ k.transpose(1, 2)).float()
    if sink is None:
        return (scores.softmax(-1).to(v.dtype) @ v).flatten(0, 1)
    scores = torch.cat((scores, sink.view(groups, -1, 1)), -1)
    return (scores.softmax(-1)[..., :-1].to(v.dtype) @ v).flatten(0, 1)


def flex_window(q: Tensor, k: Tensor, v: Tensor, sink: Tensor, window: int) -> Callable[[], object]:
    """The sink is a key of its own at position 0, whose score is replaced."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    n, _, dim = q.shape
    q = q.transpose(0, 1)[None].contiguous()
    k, v = (F.pad(x.transpose(0, 1)[None], (0, 0, 1, 0)).contiguous() for x in (k, v))

    def score(s, b, h, i, j):
        return torch.where(j == 0, sink[h].to(s.dtype), s)

    def seen(b, h, i, j):
        return (j == 0) | ((j - 1 <= i) & (j - 1 > i - window))

    mask = create_block_mask(seen, 1, None, n, n + 1, device="cpu", BLOCK_SIZE=128)
    flex = torch.compile(flex_attention, dynamic=False)
    return lambda: flex(q, k, v, score_mod=score, block_mask=mask, scale=dim**-0.5, enable_gqa=True)


def vllm_attention(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, window: int | None, *, copies: int = 1
) -> Callable[[], Tensor] | None:
    """Over a filled paged cache; values are padded to the keys' size, which the kernel asks for.

    ``copies`` caches are taken in turn, so that they come from memory.
    """
    kernels = vllm_kernels()
    if kernels is None:
        return None
    (tokens, heads, dim), (keys, groups, _) = q.shape, k.shape
    pages = -(-keys // _BLOCK)
    v = F.pad(v, (0, dim - v.shape[-1]))
    caches = []
    for _ in range(copies):
        pair = torch.zeros(pages, groups, 2 * _BLOCK, dim, dtype=q.dtype).chunk(2, dim=2)
        kernels.cpu_attn_reshape_and_cache(k, v, *pair, torch.arange(keys), "vec", 1.0, 1.0, "auto")
        caches.append(pair)
    starts = torch.tensor([0, tokens], dtype=torch.int32)
    lengths = torch.tensor([keys], dtype=torch.int32)
    table = torch.arange(pages, dtype=torch.int32)[None]
    left = -1 if window is None else window
    plan = kernels.get_scheduler_metadata(
        1, heads, groups, dim, lengths, q.dtype, starts, True, left, "vec", True, None, "auto"
    )
    sink = None if sink is None else sink.to(q.dtype)
    turn = 0

    def call() -> Tensor:
        nonlocal turn
        turn = (turn + 1) % copies
        out = torch.empty(tokens, heads, dim, dtype=q.dtype)
        kernels.cpu_attention_with_kv_cache(
            q, *caches[turn], out, starts, lengths, dim**-0.5, True, None, left, table, 0.0,
            plan, sink, None, 1.0, 1.0, "auto",
        )  # fmt: skip
        return out

    return call
