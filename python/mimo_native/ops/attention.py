"""Softmax attention: grouped heads, unequal head dims, causal window by position, learned sink."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register, wants_grad
from ..cache import LayerCache
from ._attention_grad import Options, attend, attend_with_grad, lse_shape

__all__ = ["attention", "attention_cached", "attention_varlen"]

Result = Tensor | tuple[Tensor, Tensor]

_FLOATS = (torch.float32, torch.bfloat16)
_COMMON = ("scale", "window_keys", "sink", "return_lse")
register("attention", "cpu", dtypes=_FLOATS, options=(*_COMMON, "causal", "kv_lens"), gradient=True)
register(
    "attention_varlen",
    "cpu",
    dtypes=_FLOATS,
    options=(*_COMMON, "causal", "cu_seqlens_q", "cu_seqlens_k"),
    gradient=True,
)
register(
    "attention_cached",
    "cpu",
    dtypes=_FLOATS,
    options=(*_COMMON, "cu_seqlens_q", "q_positions", "ancestors"),
)


def _beyond_cuda(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why the kernels of sm_80 cannot serve these tensors, if they cannot."""
    if not q.ndim == k.ndim == v.ndim or q.ndim not in (3, 4):
        return None  # the binding names what is wrong
    qk, dv = q.shape[-1], v.shape[-1]
    if qk % 8 or dv % 8 or qk > 256 or dv > 128:
        return f"head dims {qk}/{dv} are not multiples of 8 up to 256/128"
    group = q.shape[-2] // max(k.shape[-2], 1)
    if group > 64:
        return f"{group} query heads share a kv head, at most 64 can"
    if q.dtype == torch.float32 and group > 16 and qk > 192:
        return f"{group} query heads of {qk} float32 do not fit into shared memory"
    for name, t in (("q", q), ("k", k), ("v", v)):
        steps = [s for n, s in zip(t.shape[:-1], t.stride()[:-1], strict=True) if n > 1]
        if t.data_ptr() % 16 or any(step * t.element_size() % 16 for step in steps):
            return f"the rows of {name} are not aligned to 16 bytes"
    return None


for _op, _options in (
    ("attention", ("causal", "kv_lens")),
    ("attention_varlen", ("causal", "cu_seqlens_q", "cu_seqlens_k")),
    ("attention_cached", ("cu_seqlens_q", "ancestors")),
):
    register(_op, "cuda", dtypes=_FLOATS, options=(*_COMMON, *_options), limit=_beyond_cuda)


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

    q [B, T, Hq, Dqk], k [B, S, Hkv, Dqk], v [B, S, Hkv, Dv], float32 or bfloat16, Hkv divides Hq,
    strides free but for the last dim -> o [B, T, Hq, Dv] in q's dtype, and lse float32 [B, Hq, T],
    which includes the sink. A query that sees no key gives 0 and lse = its sink (or -inf).
    Differentiable in q, k, v and sink, through o and lse.

    scale        positive, default Dqk ** -0.5
    window_keys  visible keys including the query's own, measured by position; needs ``causal``
    sink         [Hq] logits, unscaled, without value; finite or -inf; float32 or bfloat16
    kv_lens      [B] integers: row b has kv_lens[b] <= S keys, and its queries end there

    Raises ShapeError naming the argument. Section 2.1 of the report.
    """
    if is_compiling():
        call = (sink, scale, causal, window_keys, kv_lens)
        return _result(torch.ops.mimo_native.attention(q, k, v, *call), return_lse)
    needs_grad = wants_grad(q, k, v, sink)
    backend = choose("attention", q, k, v, needs_grad=needs_grad)
    if backend == "reference":
        return reference.attention(
            q,
            k,
            v,
            scale=scale,
            causal=causal,
            window_keys=window_keys,
            sink=sink,
            kv_lens=kv_lens,
            return_lse=return_lse,
        )
    if needs_grad:
        options = Options(scale, causal, window_keys, kv_lens=kv_lens)
        return _result(attend_with_grad(q, k, v, sink, options), return_lse)
    if backend != "cpu":
        options = Options(scale, causal, window_keys, kv_lens=kv_lens)
        return _result(attend(q, k, v, sink, options, lse=return_lse, backend=backend), return_lse)
    made = native("cpu").attention(q, k, v, scale, causal, window_keys, sink, kv_lens, return_lse)
    return made if return_lse else made[0]


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

    q [N, Hq, Dqk], k [M, Hkv, Dqk], v [M, Hkv, Dv] -> o [N, Hq, Dv] in q's dtype, and lse float32
    [Hq, N]. Document d owns queries cu_seqlens_q[d] : cu_seqlens_q[d + 1] and keys cu_seqlens_k[d]
    : cu_seqlens_k[d + 1] (int32 or int64); either may be empty. The rest as in :func:`attention`.
    """
    if is_compiling():
        call = (sink, scale, causal, window_keys, cu_seqlens_q, cu_seqlens_k)
        return _result(torch.ops.mimo_native.attention_varlen(q, k, v, *call), return_lse)
    needs_grad = wants_grad(q, k, v, sink)
    backend = choose("attention_varlen", q, k, v, needs_grad=needs_grad)
    if backend == "reference":
        return reference.attention_varlen(
            q,
            k,
            v,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            scale=scale,
            causal=causal,
            window_keys=window_keys,
            sink=sink,
            return_lse=return_lse,
        )
    if needs_grad:
        options = Options(scale, causal, window_keys, None, cu_seqlens_q, cu_seqlens_k)
        return _result(attend_with_grad(q, k, v, sink, options), return_lse)
    if backend != "cpu":
        options = Options(scale, causal, window_keys, None, cu_seqlens_q, cu_seqlens_k)
        return _result(attend(q, k, v, sink, options, lse=return_lse, backend=backend), return_lse)
    made = native("cpu").attention_varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, scale, causal, window_keys, sink, return_lse
    )
    return made if return_lse else made[0]


def attention_cached(
    q: Tensor,
    k_new: Tensor,
    v_new: Tensor,
    layer_cache: LayerCache,
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
    lse float32 [B, Hq, T]; B is the cache's number of rows. Packed: q [N, Hq, Dqk] and so on with
    cu_seqlens_q [B + 1], rows may be empty -> o [N, Hq, Dv], and lse [Hq, N].

    q_positions  [B, T] or [N] integers, only checked: the tokens follow the committed ones, a tree
                 node stands as deep as it has ancestors
    ancestors    [B, T] or [N] int64: bit j of node i says that node j of the same row's chunk is an
                 ancestor of i or i itself; at most 64 nodes a row. Default: all earlier tokens

    A row of a batch, of a chunk of any size and a node of any tree have the bits of the same token
    in one :func:`attention` over the whole sequence. The rest as in :func:`attention`.
    """
    backend = choose("attention_cached", q, k_new, v_new, q_positions=q_positions)
    if backend == "reference":
        return reference.attention_cached(
            q,
            k_new,
            v_new,
            layer_cache,
            cu_seqlens_q=cu_seqlens_q,
            q_positions=q_positions,
            ancestors=ancestors,
            scale=scale,
            window_keys=window_keys,
            sink=sink,
            return_lse=return_lse,
        )
    layer_cache.require(plain=backend == "cuda")
    out, lse = _outputs(q, v_new, return_lse)
    if backend == "cuda":
        native(backend).attention_cached(
            q,
            k_new,
            v_new,
            layer_cache.keys,
            layer_cache.values,
            layer_cache.head_dim,
            layer_cache.v_head_dim,
            layer_cache.lengths.to(q.device),
            layer_cache.is_ring,
            out,
            lse,
            None if cu_seqlens_q is None else cu_seqlens_q.to(q.device),
            None if ancestors is None else ancestors.to(q.device),
            scale,
            window_keys,
            sink,
        )
        return out if lse is None else (out, lse)
    native(backend).attention_cached(
        q,
        k_new,
        v_new,
        layer_cache.keys,
        layer_cache.values,
        layer_cache.head_dim,
        layer_cache.v_head_dim,
        layer_cache.lengths,
        layer_cache.is_ring,
        out,
        lse,
        cu_seqlens_q,
        q_positions,
        ancestors,
        scale,
        window_keys,
        sink,
    )
    return out if lse is None else (out, lse)


def _outputs(q: Tensor, v: Tensor, return_lse: bool) -> tuple[Tensor, Tensor | None]:
    out = torch.empty(q.shape[:-1] + v.shape[-1:], dtype=q.dtype, device=q.device)
    if not return_lse:
        return out, None
    return out, torch.empty(lse_shape(q), dtype=torch.float32, device=q.device)


def _result(outputs: tuple[Tensor, Tensor | None], return_lse: bool) -> Result:
    return outputs if return_lse else outputs[0]
