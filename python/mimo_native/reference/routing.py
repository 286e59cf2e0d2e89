"""The top-k router: scores choose, a bias may steer the choice, and never enters the weights.

Suffixes: T tokens, E experts, K chosen experts, G groups of consecutive experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._common import require, require_shape

__all__ = ["RouteStats", "route"]


class RouteStats(NamedTuple):
    """What load balancing needs of one batch of tokens; zeros when there are none."""

    counts: Tensor  # [E] int64: slots that chose the expert
    mean_score: Tensor  # [E]: mean over tokens of score / sum of the token's scores; differentiable


def route(
    logits: Tensor,
    *,
    bias: Tensor | None = None,
    top_k: int,
    scoring: str = "sigmoid",
    normalize: bool = True,
    scaling: float = 1.0,
    n_group: int = 1,
    topk_group: int = 1,
    replay_ids: Tensor | None = None,
    return_stats: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, RouteStats]:
    """Choose ``top_k`` experts per token by score + bias and weigh them by score alone.

    logits [T, E] float32 (or float64), bias [E] -> ids [T, K] int32, weights [T, K] in the logits'
    dtype, and a :class:`RouteStats` with ``return_stats``.

    scoring     s = sigmoid(logits) or softmax(logits)
    selection   slots in descending order of s + bias; ties go to the lowest expert id
    groups      with n_group > 1 only the topk_group groups with the largest sum of their two best
                s + bias compete; ties go to the lowest group
    weights     w = s at the chosen ids; with ``normalize`` w / (sum w + 1e-20); times ``scaling``
    replay_ids  [T, K] integers: these ids in this order instead of a selection; weights stay live

    Raises ShapeError for other shapes and dtypes, NaN scores, and ids that repeat or do not exist.
    """
    _check(logits, bias, top_k, scoring, n_group, topk_group, replay_ids)
    scores_TE = logits.sigmoid() if scoring == "sigmoid" else logits.softmax(-1)
    keys_TE = scores_TE.detach() if bias is None else scores_TE.detach() + bias.detach()
    broken = keys_TE.isnan().nonzero().tolist()
    expected = "scores that are numbers"
    require(not broken, "route", "logits", expected, f"NaN at (token, expert) {broken[:4]}")

    if replay_ids is None:
        ids_TK = _select(keys_TE, top_k, n_group, topk_group)
    else:
        ids_TK = replay_ids.long()
    weights_TK = scores_TE.gather(-1, ids_TK)
    if normalize:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    weights_TK = weights_TK * scaling
    if not return_stats:
        return ids_TK.int(), weights_TK
    shares_TE = scores_TE / (scores_TE.sum(-1, keepdim=True) + 1e-20)
    counts_E = ids_TK.flatten().bincount(minlength=logits.shape[1])
    stats = RouteStats(counts_E, shares_TE.sum(0) / max(logits.shape[0], 1))
    return ids_TK.int(), weights_TK, stats


def _select(keys_TE: Tensor, top_k: int, n_group: int, topk_group: int) -> Tensor:
    if n_group > 1:
        keys_TGE = keys_TE.unflatten(-1, (n_group, -1))
        best_TG = keys_TGE.topk(2, dim=-1).values.sum(-1)
        closed_TG = torch.ones_like(best_TG, dtype=torch.bool)
        closed_TG.scatter_(-1, _ranked(best_TG)[:, :topk_group], False)
        keys_TE = keys_TGE.masked_fill(closed_TG[..., None], float("-inf")).flatten(-2)
    return _ranked(keys_TE)[:, :top_k]


def _ranked(keys: Tensor) -> Tensor:
    """Indices by descending key; a stable sort leaves equal keys in ascending index order."""
    return keys.sort(dim=-1, descending=True, stable=True).indices


def _check(
    logits: Tensor,
    bias: Tensor | None,
    top_k: int,
    scoring: str,
    n_group: int,
    topk_group: int,
    replay_ids: Tensor | None,
) -> None:
    op = "route"
    require_shape(op, "logits", logits, "T", "E")
    tokens, experts = logits.shape
    wide = logits.dtype in (torch.float32, torch.float64)
    remedy = "Compute the router in float32: half precision reroutes tokens."
    require(wide, op, "logits", "float32 or float64", logits.dtype, remedy)
    known = scoring in ("sigmoid", "softmax")
    require(known, op, "scoring", "'sigmoid' or 'softmax'", repr(scoring))
    if bias is not None:
        require_shape(op, "bias", bias, experts)
    require(1 <= top_k <= experts, op, "top_k", f"1 to {experts}", top_k)
    groups = n_group == 1 or (n_group > 1 and experts % n_group == 0 and experts // n_group >= 2)
    require(groups, op, "n_group", f"groups of equal size >= 2 of {experts} experts", n_group)
    enough = 1 <= topk_group <= n_group and topk_group * (experts // n_group) >= top_k
    expected = f"1 to {n_group} groups that hold at least {top_k} experts"
    require(enough, op, "topk_group", expected, topk_group)
    if replay_ids is None:
        return
    require_shape(op, "replay_ids", replay_ids, tokens, top_k)
    known = bool(((replay_ids >= 0) & (replay_ids < experts)).all())
    require(known, op, "replay_ids", f"expert ids in [0, {experts})", replay_ids.tolist()[:4])
    ascending = replay_ids.long().sort(-1).values
    distinct = bool((ascending.diff(dim=-1) > 0).all())
    require(distinct, op, "replay_ids", "distinct ids in every row", replay_ids.tolist()[:4])
