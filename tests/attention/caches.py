"""Layer caches filled with given tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mimo_native.cache import GlobalLayerCache, LayerCache, RingLayerCache

__all__ = ["empty_cache", "filled_cache"]


def empty_cache(
    rows: int,
    k: Tensor,
    v: Tensor,
    window: int | None,
    max_tokens: int,
    *,
    device: str = "cpu",
) -> LayerCache:
    """For tokens like k [.., Hkv, Dqk] and v [.., Hkv, Dv]: a ring where there is a window."""
    sizes = {"num_kv_heads": k.shape[-2], "head_dim": k.shape[-1], "v_head_dim": v.shape[-1]}
    if window is None:
        return GlobalLayerCache(rows, max_tokens, dtype=k.dtype, device=device, **sizes)
    return RingLayerCache(rows, window, dtype=k.dtype, device=device, **sizes)


def filled_cache(
    keys: Sequence[Tensor], values: Sequence[Tensor], window: int | None, *, room: int = 256
) -> LayerCache:
    """One row per item, its tokens k [L, Hkv, Dqk] and v [L, Hkv, Dv] committed at once."""
    longest = max((len(k) for k in keys), default=0)
    cache = empty_cache(len(keys), keys[0], values[0], window, longest + room)
    edges = torch.tensor([0, *(len(k) for k in keys)]).cumsum(0)
    cache.commit(torch.cat(list(keys)), torch.cat(list(values)), cu_seqlens_q=edges)
    return cache
