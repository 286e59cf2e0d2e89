"""Softmax attention with grouped heads, a causal window measured by position, and a learned sink.

For query i and key j of a head, with a_ij = scale * q_i . k_j over the keys that i sees, and the
head's sink logit s, which is not scaled and carries no value (report, equations 1 to 4):

    m_i = max(max_j a_ij, s)      l_i = exp(s - m_i) + sum_j exp(a_ij - m_i)
    o_i = sum_j exp(a_ij - m_i) v_j / l_i                lse_i = m_i + log l_i

A query that sees no key gives o = 0 and lse = s; without a sink lse = -inf.
Suffixes: B rows, T queries, S keys, N packed tokens, H query heads, G kv heads, D head dimension.
"""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ._common import accumulation_dtype, require, require_shape

__all__ = ["CacheRows", "attention", "attention_cached", "attention_varlen"]

Result = Tensor | tuple[Tensor, Tensor]


class CacheRows(Protocol):
    """What attention needs of a layer's cache: the committed tokens of a row, as plain tensors."""

    def unpacked(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [L, G, Dqk], values [L, G, Dv], positions [L]; a ring holds the last ones only."""

    def as_stored(self, x: Tensor) -> Tensor:
        """New keys or values [.., D] as the cache will return them once they are committed."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    window_keys: int | None = None,
    sink: Tensor | None = None,
    kv_lens: Tensor | None = None,
    return_lse: bool = False,
) -> Result:
    """Attention over a dense batch; the last query stands at the last key.

    q [B, T, Hq, Dqk], k [B, S, Hkv, Dqk], v [B, S, Hkv, Dv], Hkv divides Hq
    -> o [B, T, Hq, Dv] in q's dtype, and lse [B, Hq, T] in the accumulation dtype.

    scale        default Dqk ** -0.5
    window_keys  number of visible keys including the query's own; needs ``causal``
    sink         [Hq] logits, finite or -inf (which is no sink)
    kv_lens      [B] integers: row b has kv_lens[b] <= S keys, and its queries end there

    Raises ShapeError for sizes that do not fit.
    """
    op = "attention"
    _check(op, q, k, v, True, causal, window_keys, sink)
    batch, n_keys = q.shape[0], k.shape[1]
    require(k.shape[0] == batch, op, "k", f"{batch} rows", k.shape[0])
    lens = [n_keys] * batch if kv_lens is None else kv_lens.tolist()
    fits = len(lens) == batch and all(0 <= n <= n_keys for n in lens)
    require(fits, op, "kv_lens", f"[{batch}] lengths in [0, {n_keys}]", lens)
    rows = [
        _attend_aligned(q_b, k_b[:n], v_b[:n], causal, window_keys, scale, sink)
        for q_b, k_b, v_b, n in zip(q, k, v, lens, strict=True)
    ]
    return _joined(rows, q, v, True, return_lse)


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float | None = None,
    causal: bool = True,
    window_keys: int | None = None,
    sink: Tensor | None = None,
    return_lse: bool = False,
) -> Result:
    """Attention over packed documents, each as :func:`attention` would see it alone.

    q [N, Hq, Dqk], k [M, Hkv, Dqk], v [M, Hkv, Dv] -> o [N, Hq, Dv] in q's dtype, and lse [Hq, N].
    Document d owns queries cu_seqlens_q[d] : cu_seqlens_q[d + 1] and keys cu_seqlens_k[d] :
    cu_seqlens_k[d + 1]; either may be empty. Raises ShapeError for sizes that do not fit.
    """
    op = "attention_varlen"
    _check(op, q, k, v, False, causal, window_keys, sink)
    q_lens = _lengths(op, "cu_seqlens_q", cu_seqlens_q, q.shape[0])
    k_lens = _lengths(op, "cu_seqlens_k", cu_seqlens_k, k.shape[0])
    same = f"{len(q_lens)} documents"
    require(len(k_lens) == len(q_lens), op, "cu_seqlens_k", same, f"{len(k_lens)} documents")
    documents = zip(q.split(q_lens), k.split(k_lens), v.split(k_lens), strict=True)
    rows = [
        _attend_aligned(q_d, k_d, v_d, causal, window_keys, scale, sink)
        for q_d, k_d, v_d in documents
    ]
    return _joined(rows, q, v, False, return_lse)


def attention_cached(
    q: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    layer_cache: CacheRows,
    *,
    cu_seqlens_q: Tensor | None = None,
    q_positions: Tensor | None = None,
    ancestors: Tensor | None = None,
    scale: float | None = None,
    window_keys: int | None = None,
    sink: Tensor | None = None,
    return_lse: bool = False,
) -> Result:
    """Attention of new tokens to their row's committed keys and to one another; writes nothing.

    Dense: q [B, T, Hq, Dqk], k_new [B, T, Hkv, Dqk], v_new [B, T, Hkv, Dv] -> o [B, T, Hq, Dv], and
    lse [B, Hq, T]. Packed: B and T merged into N, with cu_seqlens_q [B + 1], rows may be empty
    -> o [N, Hq, Dv], and lse [Hq, N]. Row b also attends to ``layer_cache.unpacked(b)``.

    q_positions  [B, T] or [N]; default: the tokens follow the committed ones in order, a tree node
                 stands as deep as it has ancestors
    ancestors    [B, T] or [N] int64: bit j of node i says that node j of the same row's chunk is an
                 ancestor of i or i itself; at most 64 nodes a row. Default: all earlier tokens

    Everything else as in :func:`attention`. Raises ShapeError for sizes that do not fit.
    """
    op, dense = "attention_cached", cu_seqlens_q is None
    _check(op, q, k_new, v_new, dense, True, window_keys, sink)
    same = q.shape[:-2]
    require(k_new.shape[:-2] == same, op, "k_new", f"tokens {list(same)}", list(k_new.shape[:-2]))
    for name, given in (("q_positions", q_positions), ("ancestors", ancestors)):
        if given is not None:
            require_shape(op, name, given, *same)

    def rows_of(tokens: Tensor | None) -> list[Tensor | None]:
        if tokens is None:
            return [None] * n_rows
        return list(tokens.unbind() if dense else tokens.split(lens))

    lens = [] if dense else _lengths(op, "cu_seqlens_q", cu_seqlens_q, q.shape[0])
    n_rows = q.shape[0] if dense else len(lens)
    chunks = zip(*map(rows_of, (q, k_new, v_new, q_positions, ancestors)), strict=True)
    rows = []
    for row, (q_row, k_row, v_row, at, bits) in enumerate(chunks):
        k_old, v_old, at_old = layer_cache.unpacked(row)
        related, depth = _relations(q_row, bits)
        length = int(at_old.max()) + 1 if len(at_old) else 0
        at = length + depth if at is None else at
        visible = _in_sight(at, torch.cat((at_old, at)), True, window_keys)
        visible[:, len(at_old) :] &= related
        k_row, v_row = layer_cache.as_stored(k_row), layer_cache.as_stored(v_row)
        keys, values = torch.cat((k_old, k_row)), torch.cat((v_old, v_row))
        rows.append(_attend(q_row, keys, values, visible, scale, sink))
    return _joined(rows, q, v_new, dense, return_lse)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float | None, sink: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The formula for one row: q [T, H, D], k [S, G, D], v [S, G, Dv], visible [T, S]."""
    dtype = accumulation_dtype(q, k, v)
    (n_queries, heads, head_dim), groups = q.shape, k.shape[1]
    q_TGHD = q.to(dtype).unflatten(1, (groups, heads // groups))
    a_HTS = torch.einsum("tghd,sgd->ghts", q_TGHD, k.to(dtype)).flatten(0, 1)
    a_HTS = a_HTS * (head_dim**-0.5 if scale is None else scale)
    a_HTS = a_HTS.masked_fill(~visible, -torch.inf)
    # The sink is one more column, a key without a value; no sink is the column of -inf.
    sink_H = a_HTS.new_full((heads,), -torch.inf) if sink is None else sink.to(dtype)
    a_HTS = torch.cat((a_HTS, sink_H[:, None, None].expand(heads, n_queries, 1)), dim=-1)

    # A finite maximum, so that a row that sees nothing has exp(-inf) = 0 everywhere and no NaN.
    m_HT1 = a_HTS.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).min)
    p_HTS = torch.exp(a_HTS - m_HT1)
    l_HT = p_HTS.sum(-1)
    blind_HT = l_HT == 0
    l_HT = l_HT.masked_fill(blind_HT, 1.0)
    p_GHTS = (p_HTS[..., :-1] / l_HT[..., None]).unflatten(0, (groups, heads // groups))
    o_THD = torch.einsum("ghts,sgd->tghd", p_GHTS, v.to(dtype)).flatten(1, 2)
    lse_HT = (m_HT1.squeeze(-1) + l_HT.log()).masked_fill(blind_HT, -torch.inf)
    return o_THD.to(q.dtype), lse_HT


def _attend_aligned(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window_keys: int | None,
    scale: float | None,
    sink: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One row whose last query stands at its last key; a query ahead of all keys sees nothing."""
    k_positions = torch.arange(len(k), device=q.device)
    q_positions = torch.arange(len(k) - len(q), len(k), device=q.device)
    visible = _in_sight(q_positions, k_positions, causal, window_keys)
    return _attend(q, k, v, visible, scale, sink)


def _in_sight(
    q_positions: Tensor, k_positions: Tensor, causal: bool, window_keys: int | None
) -> Tensor:
    """visible [T, S]: the key is not ahead, and at most window_keys - 1 positions behind."""
    distance = q_positions[:, None] - k_positions
    visible = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return visible if window_keys is None else visible & (distance < window_keys)


def _relations(q: Tensor, ancestors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which node of the chunk is an ancestor of which or the same, [T, T]; and the depths [T]."""
    nodes = torch.arange(len(q), device=q.device)
    if ancestors is None:
        return nodes[:, None] >= nodes, nodes
    op, argument = "attention_cached", "ancestors"
    require(len(nodes) <= 64, op, argument, "at most 64 nodes in a row", len(nodes))
    related = (ancestors[:, None] >> nodes & 1).bool()
    complete = bool(related.diagonal().all())
    require(complete, op, argument, "every node's own bit set", ancestors.tolist())
    return related, related.sum(-1) - 1


def _joined(
    rows: list[tuple[Tensor, Tensor]], q: Tensor, v: Tensor, dense: bool, return_lse: bool
) -> Result:
    """Stack dense rows, concatenate packed ones; correct for no rows at all."""
    if rows:
        o = torch.stack([o for o, _ in rows]) if dense else torch.cat([o for o, _ in rows])
        lse = [lse for _, lse in rows]
        lse = torch.stack(lse) if dense else torch.cat(lse, dim=-1)
    else:
        o = q.new_empty(*q.shape[:-1], v.shape[-1])
        lse_shape = (*q.shape[:-3], q.shape[-2], q.shape[-3])
        lse = q.new_empty(lse_shape, dtype=accumulation_dtype(q))
    return (o, lse) if return_lse else o


def _lengths(op: str, argument: str, cu_seqlens: Tensor, total: int) -> list[int]:
    require_shape(op, argument, cu_seqlens, "documents + 1")
    edges = cu_seqlens.tolist()
    lens = [end - start for start, end in pairwise(edges)]
    ordered = edges[:1] == [0] and edges[-1] == total and min(lens, default=0) >= 0
    require(ordered, op, argument, f"edges that rise from 0 to {total}", edges)
    return lens


def _check(
    op: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dense: bool,
    causal: bool,
    window: int | None,
    sink: Tensor | None,
) -> None:
    tokens = ("B", "T") if dense else ("N",)
    require_shape(op, "q", q, *tokens, "Hq", "Dqk")
    require_shape(op, "k", k, *tokens, "Hkv", q.shape[-1])
    require_shape(op, "v", v, *k.shape[:-1], "Dv")
    heads, groups = q.shape[-2], k.shape[-2]
    require(groups > 0 and heads % groups == 0, op, "k", f"kv heads that divide {heads}", groups)
    require(window is None or window >= 1, op, "window_keys", "None or at least 1", window)
    require(window is None or causal, op, "causal", "True with window_keys", causal)
    if sink is not None:
        require_shape(op, "sink", sink, heads)
