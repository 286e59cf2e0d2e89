"""Losses over the vocabulary from hidden states and a head; here with all logits at once.

Suffixes: N rows, D inputs, V vocabulary, K ids per row.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedError
from ._common import accumulation_dtype, dense, require, require_shape
from .int8 import rows_seen_by

__all__ = [
    "linear_cross_entropy",
    "linear_logprob",
    "linear_reverse_kl",
    "reduce_losses",
    "top_k_divergence",
]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """-log softmax(hidden W^T) at the target of every row.

    hidden [N, D], weight [V, D] (tensor or packed), targets int64 [N], ``ignore_index`` where there
    is none -> [] or, for "none", [N] in float32 (float64 for float64), 0 for a row without target.
    "mean" divides by the rows with a target; without any the loss is 0. Raises ShapeError.
    """
    logits_NV = _logits("linear_cross_entropy", hidden, weight, 1.0)
    require_shape("linear_cross_entropy", "targets", targets, hidden.shape[0])
    _require_ids(
        "linear_cross_entropy", "targets", targets[targets != ignore_index], logits_NV.shape[1]
    )
    losses_N = F.cross_entropy(logits_NV, targets, ignore_index=ignore_index, reduction="none")
    return reduce_losses(losses_N, targets != ignore_index, reduction)


def reduce_losses(losses_N: Tensor, valid_N: Tensor, reduction: str) -> Tensor:
    """The mean is over valid rows; of none it is 0, so that an empty micro-batch adds no NaN."""
    require(
        reduction in ("mean", "sum", "none"),
        "linear_cross_entropy",
        "reduction",
        '"mean", "sum" or "none"',
        repr(reduction),
    )
    if reduction == "none":
        return losses_N
    total = losses_N.sum()
    return total if reduction == "sum" else total / valid_N.sum().clamp(min=1)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    return_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(hidden W^T / temperature) at the given ids.

    hidden [N, D], weight [V, D] (tensor or packed), ids int64 [N] or [N, K] -> the shape of ids, in
    float32 (float64 for float64); with ``return_entropy`` also the entropy of every row's
    distribution, [N]. Raises ShapeError.
    """
    logits_NV = _logits("linear_logprob", hidden, weight, temperature)
    ids_NK = ids if ids.ndim == 2 else ids[:, None]
    require_shape("linear_logprob", "ids", ids_NK, hidden.shape[0], "K")
    _require_ids("linear_logprob", "ids", ids, logits_NV.shape[1])
    logp_NV = logits_NV.log_softmax(-1)
    logprobs = logp_NV.gather(-1, ids_NK).reshape(ids.shape)
    if not return_entropy:
        return logprobs
    return logprobs, -(logp_NV.exp() * logp_NV).sum(-1)


def linear_reverse_kl(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    correction: Literal["mass", "tail"] | None = "mass",
) -> Tensor:
    """KL(student || teacher) of every row, over the vocabulary or the teacher's ``top_k`` ids.

    hidden [N, D], weight [V, D], teacher_hidden [N, D'], teacher_weight [V, D'] (tensors or packed)
    -> [N] in float32 (float64 for float64). Nothing of the teacher gets a gradient. With pi and tau
    the two distributions at ``temperature`` and S the teacher's ``top_k`` most probable ids:

    top_k None   sum over all v of pi log(pi / tau)
    "mass"       sum over S of pi log(pi / tau) - pi + tau, which is least at pi = tau
    "tail"       the divergence over k + 1 bins: S, and everything else as one

    Raises ShapeError; UnsupportedError for top_k without a correction.
    """
    _require_correction(top_k, correction)
    logp_NV = _logits("linear_reverse_kl", hidden, weight, temperature).log_softmax(-1)
    with torch.no_grad():
        logt_NV = _logits(
            "linear_reverse_kl", teacher_hidden, teacher_weight, temperature, who="teacher_"
        ).log_softmax(-1)
    require_shape("linear_reverse_kl", "teacher_hidden", teacher_hidden, hidden.shape[0], "D'")
    require_shape("linear_reverse_kl", "teacher_weight", logt_NV, "N", logp_NV.shape[1])
    if top_k is None:
        return (logp_NV.exp() * (logp_NV - logt_NV)).sum(-1)
    require(
        1 <= top_k <= logp_NV.shape[1],
        "linear_reverse_kl",
        "top_k",
        f"1 to {logp_NV.shape[1]}",
        top_k,
    )
    ids_NK = logt_NV.topk(top_k, dim=-1).indices
    return top_k_divergence(logp_NV.gather(-1, ids_NK), logt_NV.gather(-1, ids_NK), correction)


def top_k_divergence(logp_NK: Tensor, logt_NK: Tensor, correction: str | None) -> Tensor:
    """The corrected forms from log-probabilities at the teacher's ids."""
    p_NK, t_NK = logp_NK.exp(), logt_NK.exp()
    terms_NK = p_NK * (logp_NK - logt_NK)
    if correction == "mass":
        return (terms_NK - p_NK + t_NK).sum(-1)
    least = torch.finfo(logp_NK.dtype).tiny
    rest_N = (1 - p_NK.sum(-1)).clamp(min=least)
    rest_t_N = (1 - t_NK.sum(-1)).clamp(min=least)
    return terms_NK.sum(-1) + rest_N * (rest_N.log() - rest_t_N.log())


def _require_correction(top_k: int | None, correction: str | None) -> None:
    if correction is not None:
        known = correction in ("mass", "tail")
        require(known, "linear_reverse_kl", "correction", '"mass" or "tail"', repr(correction))
    elif top_k is not None:
        raise UnsupportedError(
            "linear_reverse_kl",
            [
                "without a correction the sum over the teacher's top k falls without bound as the "
                "student moves its mass out of them: training collapses"
            ],
            remedy='Choose correction="mass" or "tail", or top_k=None.',
        )


def _logits(op: str, hidden: Tensor, weight: Tensor, temperature: float, who: str = "") -> Tensor:
    w_VD = dense(weight)
    require_shape(op, f"{who}hidden", hidden, "N", "D")
    require_shape(op, f"{who}weight", w_VD, "V", hidden.shape[1])
    require(temperature > 0, op, "temperature", "> 0", temperature)
    dtype = accumulation_dtype(hidden, w_VD)
    return rows_seen_by(weight, hidden, dtype) @ w_VD.to(dtype).T / temperature


def _require_ids(op: str, argument: str, ids: Tensor, vocab: int) -> None:
    require(ids.dtype == torch.int64, op, argument, "int64", ids.dtype)
    known = ids.numel() == 0 or (int(ids.min()) >= 0 and int(ids.max()) < vocab)
    got = f"[{int(ids.min())}, {int(ids.max())}]" if ids.numel() else ""
    require(known, op, argument, f"ids in [0, {vocab})", got, "Use the tokenizer of this model.")
