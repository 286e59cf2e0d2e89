"""flash-attn's two functions on this package's kernels, for side-by-side use.

    from mimo_native.integrations.flash_attn import flash_attn_func

The signatures are flash-attn's, and so are the conventions: ``window_size=(left, right)`` is
inclusive, so that ``(w, 0)`` means w keys before the query and its own, which is
``window_keys = w + 1`` elsewhere in this package; -1 is no limit; causal masks are aligned to the
bottom right. What the kernels do not offer is refused by name rather than left out.

``learnable_sink`` [Hq], the null logit per query head, and values narrower or wider than keys are
what these kernels have beyond flash-attn 2.
"""

from torch import Tensor

from .. import ops
from ..errors import ShapeError, UnsupportedError

__all__ = ["flash_attn_func", "flash_attn_varlen_func"]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    learnable_sink: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """q [B, T, Hq, D], k [B, S, Hkv, D], v [B, S, Hkv, Dv] -> o [B, T, Hq, Dv] (, lse [B, Hq, T]).

    float32 or bfloat16; differentiable; ``deterministic`` is always so. Raises UnsupportedError
    for dropout, soft caps, ALiBi slopes, returned probabilities and windows that look ahead.
    """
    op = "flash_attn_func"
    causal, window = _mask(op, causal, window_size)
    _refuse(op, dropout_p, softcap, alibi_slopes, return_attn_probs)
    return ops.attention(
        q,
        k,
        v,
        scale=softmax_scale,
        causal=causal,
        window_keys=window,
        sink=learnable_sink,
        return_lse=return_lse,
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    learnable_sink: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """q [N, Hq, D], k [M, Hkv, D], v [M, Hkv, Dv] -> o [N, Hq, Dv] (, lse [Hq, N]).

    Packed documents by their edges [B + 1]. The longest lengths are checked, not needed. The rest
    as in :func:`flash_attn_func`; block tables are refused too.
    """
    op = "flash_attn_varlen_func"
    causal, window = _mask(op, causal, window_size)
    _refuse(op, dropout_p, softcap, alibi_slopes, return_attn_probs, block_table)
    for name, edges, most in (
        ("max_seqlen_q", cu_seqlens_q, max_seqlen_q),
        ("max_seqlen_k", cu_seqlens_k, max_seqlen_k),
    ):
        longest = int(edges.diff().max()) if edges.numel() > 1 else 0
        if most < longest:
            raise ShapeError(op, name, expected=f"at least {longest}", got=str(most))
    return ops.attention_varlen(
        q,
        k,
        v,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        scale=softmax_scale,
        causal=causal,
        window_keys=window,
        sink=learnable_sink,
        return_lse=return_lse,
    )


def _mask(op: str, causal: bool, window_size: tuple[int, int]) -> tuple[bool, int | None]:
    """(causal, window_keys) of an inclusive (left, right)."""
    left, right = window_size
    if causal:
        right = 0  # as flash-attn reads it, whatever was given
    if right > 0 or (right < 0 and left >= 0):
        raise UnsupportedError(
            op, [f"window_size={window_size} without causal=True lets a query see later keys"]
        )
    causal = right == 0
    return causal, left + 1 if left >= 0 else None


def _refuse(
    op: str,
    dropout_p: float,
    softcap: float,
    alibi_slopes: Tensor | None,
    return_attn_probs: bool,
    block_table: Tensor | None = None,
) -> None:
    asked = {
        "dropout_p": dropout_p != 0.0,
        "softcap": softcap != 0.0,
        "alibi_slopes": alibi_slopes is not None,
        "return_attn_probs": return_attn_probs,
        "block_table": block_table is not None,
    }
    if any(asked.values()):
        reasons = [f"{name} is not offered by these kernels" for name, on in asked.items() if on]
        remedy = "return_lse=True gives the log-sum-exp." if return_attn_probs else ""
        raise UnsupportedError(op, reasons, remedy=remedy)
