"""Losses over the vocabulary without the logits: cross-entropy, log-probabilities, divergence.

The order of every sum is that of the sampler: the log-probability of a sampled token has the same
bits here.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, register
from ..errors import ShapeError
from ..reference.loss import _require_correction, reduce_losses, top_k_divergence
from ._loss import NO_ID, Weight, divergence, logprob
from .gemm import linear

__all__ = ["linear_cross_entropy", "linear_logprob", "linear_reverse_kl"]

_FLOATS = (torch.float32, torch.bfloat16)
for _op, _options in {
    "linear_cross_entropy": ("ignore_index", "reduction"),
    "linear_logprob": ("temperature", "return_entropy"),
    "linear_reverse_kl": ("temperature", "top_k", "correction"),
}.items():
    register(_op, "cpu", dtypes=_FLOATS, options=_options, gradient=True)

_TOP_K_LOGITS = 1 << 24  # of the teacher, held while its best ids are picked


def linear_cross_entropy(
    hidden: Tensor,
    weight: Weight,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """-log softmax(hidden W^T) at the target of every row. Differentiable in hidden and a plain W.

    hidden [N, D] float32 or bfloat16, weight [V, D] of that dtype, or float32 for bfloat16 rows;
    targets int64 [N], ``ignore_index`` where there is none -> float32 [] or, for "none", [N], 0 for
    a row without target. "mean" divides by the rows with a target; without any the loss is 0.
    Raises ShapeError naming the argument.
    """
    backend = None if is_compiling() else choose("linear_cross_entropy", hidden, weight, targets)
    if backend == "reference":
        return reference.linear_cross_entropy(
            hidden, weight, targets, ignore_index=ignore_index, reduction=reduction
        )
    if targets.ndim != 1 or targets.dtype != torch.int64:
        got = f"{targets.dtype} {list(targets.shape)}"
        raise ShapeError("linear_cross_entropy", "targets", expected="int64 [N]", got=got)
    valid = targets != ignore_index
    ids = torch.where(valid, targets, NO_ID)[:, None]
    logprobs = logprob("linear_cross_entropy", hidden, weight, ids, 1.0, False)[0]
    return reduce_losses(-logprobs[:, 0], valid, reduction)


def linear_logprob(
    hidden: Tensor,
    weight: Weight,
    ids: Tensor,
    *,
    temperature: float = 1.0,
    return_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(hidden W^T / temperature) at the given ids. Differentiable as above.

    hidden [N, D], weight [V, D] as for :func:`linear_cross_entropy`, ids int64 [N] or [N, K]
    -> float32 in the shape of ids; with ``return_entropy`` also the entropy of every row's
    distribution, float32 [N]. Bit for bit what :func:`sample` reports for the logits
    ``linear(hidden, weight, out_dtype=torch.float32)``. Raises ShapeError naming the argument.
    """
    backend = None if is_compiling() else choose("linear_logprob", hidden, weight, ids)
    if backend == "reference":
        return reference.linear_logprob(
            hidden, weight, ids, temperature=temperature, return_entropy=return_entropy
        )
    ids_NK = ids[:, None] if ids.ndim == 1 else ids
    logprobs, entropy = logprob(
        "linear_logprob", hidden, weight, ids_NK, temperature, return_entropy
    )
    logprobs = logprobs.reshape(ids.shape)
    return (logprobs, entropy) if return_entropy else logprobs


def linear_reverse_kl(
    hidden: Tensor,
    weight: Weight,
    teacher_hidden: Tensor,
    teacher_weight: Weight,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    correction: Literal["mass", "tail"] | None = "mass",
) -> Tensor:
    """KL(student || teacher) of every row, over the vocabulary or the teacher's ``top_k`` ids.

    hidden [N, D], weight [V, D], teacher_hidden [N, D'], teacher_weight [V, D'] as for
    :func:`linear_cross_entropy`; the teacher may have another dtype and width -> float32 [N].
    Differentiable in hidden and a plain weight, never in the teacher. With pi and tau the two
    distributions at ``temperature`` and S the teacher's ``top_k`` most probable ids:

    top_k None   sum over all v of pi log(pi / tau)
    "mass"       sum over S of pi log(pi / tau) - pi + tau, which is least at pi = tau
    "tail"       the divergence over k + 1 bins: S, and everything else as one

    Raises ShapeError; UnsupportedError for top_k without a correction, which collapses.
    """
    _require_correction(top_k, correction)
    backend = None
    if not is_compiling():
        backend = choose("linear_reverse_kl", hidden, weight, teacher_hidden)
    if backend == "reference":
        return reference.linear_reverse_kl(
            hidden,
            weight,
            teacher_hidden,
            teacher_weight,
            temperature=temperature,
            top_k=top_k,
            correction=correction,
        )
    teacher = teacher_hidden.detach(), _detached(teacher_weight)
    if top_k is None:
        return divergence(hidden, weight, *teacher, temperature)
    with torch.no_grad():
        ids = _teacher_ids(*teacher, top_k)
        logt = linear_logprob(*teacher, ids, temperature=temperature)
    logp = linear_logprob(hidden, weight, ids, temperature=temperature)
    return top_k_divergence(logp, logt, correction)


def _teacher_ids(hidden: Tensor, weight: Weight, top_k: int) -> Tensor:
    vocab = weight.shape[0]
    if not 1 <= top_k <= vocab:
        raise ShapeError("linear_reverse_kl", "top_k", expected=f"1 to {vocab}", got=str(top_k))
    rows = max(1, _TOP_K_LOGITS // vocab)
    parts = [
        linear(part, weight, out_dtype=torch.float32).topk(top_k, dim=-1).indices
        for part in hidden.split(rows)
    ]
    return torch.cat(parts)


def _detached(weight: Weight) -> Weight:
    return weight.detach() if isinstance(weight, Tensor) else weight
