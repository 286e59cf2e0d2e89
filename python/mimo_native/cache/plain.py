"""Storage of caches on a GPU: plain rows, position p of a row at p modulo the capacity.

keys [B, Hkv, capacity, Dqk], values [B, Hkv, capacity, Dv]. Lengths stay on the host, which checks
a commit whole and hands the kernels a table of where every accepted token goes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..backends import native
from ..errors import ShapeError

if TYPE_CHECKING:
    from .layer import LayerCache

__all__ = ["commit", "unpacked"]


def unpacked(cache: "LayerCache", row: int, first: int, length: int) -> tuple[Tensor, Tensor]:
    """Keys [L, Hkv, Dqk] and values [L, Hkv, Dv] of the positions [first, length) of a row."""
    places = torch.arange(first, length, device=cache.keys.device) % cache.capacity
    stored = cache.keys[row][:, places], cache.values[row][:, places]
    return tuple(part.transpose(0, 1).contiguous() for part in stored)


def commit(
    layers: Sequence[tuple["LayerCache", Tensor, Tensor]],
    lengths: Tensor,
    cu_seqlens: Tensor,
    rows: Tensor | None,
    ancestors: Tensor | None,
    max_tokens: int | None,
) -> None:
    """As ``cache.layer.write``: everything is checked, then written, then the lengths move."""
    if not layers:
        raise ShapeError("commit", "layers", expected="at least one", got="none")
    before, tokens = lengths.tolist(), layers[0][1].shape[0]
    edges = _edges(cu_seqlens, len(before), tokens)
    accepted = _accepted(edges, rows, ancestors)
    after = [length + len(taken) for length, taken in zip(before, accepted, strict=True)]
    rooms = [c.capacity for c, _, _ in layers if not c.is_ring]
    room = min(
        [*rooms, *([] if max_tokens is None else [max_tokens])], default=max(after, default=0)
    )
    for row, length in enumerate(after):
        if length > room:
            raise ShapeError(
                "commit",
                "rows",
                expected=f"at most {room} tokens in a row of the cache",
                got=f"{length} tokens in row {row}",
                remedy="Make the cache with a larger max_tokens, or truncate the row.",
            )
    for cache, k_new, v_new in layers:
        _check_layer(cache, k_new, v_new, tokens)

    # Without a tree the accepted tokens of a row are its first, which are where they were stored.
    left = [
        (cache.keys, cache.values, _dense(k_new), _dense(v_new))
        for cache, k_new, v_new in layers
        if ancestors is not None or not cache.take_ahead(k_new, v_new)
    ]
    entries = [
        (token, row, before[row] + i, after[row])
        for row, taken in enumerate(accepted)
        for i, token in enumerate(taken)
    ]
    if left and entries:
        table = torch.tensor(entries, dtype=torch.int64).to(layers[0][0].keys.device)
        native("cuda").cache_commit(left, table)
    lengths.copy_(torch.tensor(after, dtype=torch.int64))
    for cache, _, _ in layers:
        if cache.held_from is not None:
            torch.maximum(cache.held_from, lengths - cache.capacity, out=cache.held_from)


def _edges(cu_seqlens: Tensor, rows: int, tokens: int) -> list[int]:
    edges = cu_seqlens.tolist() if cu_seqlens.ndim == 1 else []
    rises = edges[:1] == [0] and edges[-1] == tokens and all(a <= b for a, b in pairwise(edges))
    if len(edges) != rows + 1 or not rises:
        expected = f"{rows + 1} edges that rise from 0 to {tokens}"
        raise ShapeError("commit", "cu_seqlens", expected=expected, got=str(edges[:16]))
    return edges


def _accepted(edges: list[int], rows: Tensor | None, ancestors: Tensor | None) -> list[list[int]]:
    """The packed indices that every row takes."""
    if rows is None:
        return [list(range(begin, end)) for begin, end in pairwise(edges)]
    left, accepted = rows.tolist(), []
    masks = None if ancestors is None else ancestors.flatten().tolist()
    for begin, end in pairwise(edges):
        taken = []
        path = 0
        while left and begin <= left[0] < end:
            token = left.pop(0)
            node, fits = token - begin, token - begin == len(taken)
            if masks is not None:
                path |= 1 << node
                fits = masks[token] % (1 << 64) == path
            if not fits:
                kind = "a path of the draft tree, root first" if masks else "a row's first tokens"
                raise ShapeError("commit", "rows", expected=kind, got=f"token {token}")
            taken.append(token)
        accepted.append(taken)
    if left:
        expected = f"indices of the step's {edges[-1]} tokens, row by row"
        raise ShapeError("commit", "rows", expected=expected, got=f"index {left[0]}")
    return accepted


def _check_layer(cache: "LayerCache", k_new: Tensor, v_new: Tensor, tokens: int) -> None:
    heads = cache.num_kv_heads
    for name, new, stored in (("k_new", k_new, cache.keys), ("v_new", v_new, cache.values)):
        shape = (tokens, heads, stored.shape[-1])
        same = new.dtype == stored.dtype and new.device == stored.device
        if tuple(new.shape) != shape or not same:
            expected = f"{stored.dtype} {list(shape)} on {stored.device}"
            got = f"{new.dtype} {list(new.shape)} on {new.device}"
            raise ShapeError("commit", name, expected=expected, got=got)


def _dense(x: Tensor) -> Tensor:
    """With rows that begin at multiples of 16 bytes."""
    steps = (step * x.element_size() for step in x.stride()[:-1])
    aligned = x.data_ptr() % 16 == 0 and all(step % 16 == 0 for step in steps)
    return x if x.stride(-1) == 1 and aligned else x.contiguous()
