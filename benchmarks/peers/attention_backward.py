"""Attention in plain torch as one would write it to train on a CPU: the peers of the backward."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["banded_attention", "padded_sdpa"]


def banded_attention(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, window: int, block: int = 128
) -> Tensor:
    """q [T, H, D], k [T, G, D], v [T, G, Dv], T a multiple of ``block``: the window's band only.

    Every block of queries meets its own keys and the window's before, as one batched product; the
    query heads of a kv head are rows of it.
    """
    (tokens, heads, dim), groups = q.shape, k.shape[1]
    lead = (window - 1 + block - 1) // block * block
    span, blocks, group = lead + block, tokens // block, heads // groups
    rows = q.reshape(blocks, block, groups, group, dim).permute(0, 2, 3, 1, 4)
    rows = rows.reshape(blocks, groups, group * block, dim)
    band_k, band_v = (
        F.pad(t, (0, 0, 0, 0, lead, 0)).unfold(0, span, block).permute(0, 1, 3, 2) for t in (k, v)
    )
    scores = (rows @ band_k.transpose(-1, -2)).float() * dim**-0.5
    at, key = torch.arange(block)[:, None], torch.arange(span) - lead
    near = (key <= at) & (key > at - window)
    first = torch.arange(blocks)[:, None, None] * block + key >= 0
    mask = (near & first)[:, None, None].expand(-1, 1, group, -1, -1).flatten(2, 3)
    scores = scores.masked_fill(~mask, -torch.inf)
    if sink is not None:
        column = sink.view(groups, group, 1).expand(-1, -1, block).reshape(groups, -1, 1)
        scores = torch.cat((scores, column.expand(blocks, -1, -1, -1)), dim=-1)
    p = scores.softmax(-1)[..., :span].to(v.dtype)
    o = (p @ band_v).reshape(blocks, groups, group, block, v.shape[-1])
    return o.permute(0, 3, 1, 2, 4).reshape(tokens, heads, v.shape[-1])


def padded_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Global and causal; values padded to the keys' width, which torch's fused kernel needs."""
    group, dim_v = q.shape[1] // k.shape[1], v.shape[-1]
    v = F.pad(v, (0, k.shape[-1] - dim_v))
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    heads_first = (t.transpose(0, 1)[None] for t in (q, k, v))
    o = F.scaled_dot_product_attention(*heads_first, is_causal=True)
    return o[0].transpose(0, 1)[..., :dim_v]
