"""The top-k router of a mixture-of-experts layer, forward and backward."""

import torch
from torch import Tensor

from .. import reference
from ..backends import choose, native, register, wants_grad
from ..reference import RouteStats

__all__ = ["route"]

register(
    "route",
    "cpu",
    dtypes=(torch.float32,),
    options=(
        "bias",
        "top_k",
        "scoring",
        "normalize",
        "scaling",
        "n_group",
        "topk_group",
        "replay_ids",
        "return_stats",
    ),
    gradient=True,
)

_MOST_EXPERTS = 1024


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

    logits [T, E] float32, E <= 1024, last dim contiguous; bias [E] float32, finite or -inf
    -> ids [T, K] int32, weights [T, K] float32 with K = top_k, and a RouteStats (counts [E]
    int64, mean_score [E] float32) with ``return_stats``. Differentiable in logits through the
    weights and mean_score; the bias takes no gradient.

    scoring     s = sigmoid(logits) or softmax(logits)
    selection   slots in descending order of s + bias; ties go to the lowest expert id
    groups      with n_group > 1 only the topk_group groups with the largest sum of their two best
                s + bias compete; ties go to the lowest group
    weights     w = s at the chosen ids; with ``normalize`` w / (sum w + 1e-20); times ``scaling``
    replay_ids  [T, K] uint8, int16, int32 or int64: these ids in this order instead of a selection

    Raises ShapeError for other shapes and dtypes, NaN scores, and ids that repeat or do not exist.
    Section 2.2 of the report (the router of the MoE layers).
    """
    needs_grad = wants_grad(logits)
    backend = choose("route", logits, needs_grad=needs_grad)
    if backend == "reference":
        return reference.route(
            logits,
            bias=bias,
            top_k=top_k,
            scoring=scoring,
            normalize=normalize,
            scaling=scaling,
            n_group=n_group,
            topk_group=topk_group,
            replay_ids=replay_ids,
            return_stats=return_stats,
        )
    request = (bias, top_k, scoring, normalize, scaling, n_group, topk_group, replay_ids)
    if needs_grad:
        ids, weights, counts, mean_score = _Route.apply(logits, backend, return_stats, request)
    else:
        ids, weights, counts, mean_score = _forward(logits, backend, return_stats, request)
    if return_stats:
        return ids, weights, RouteStats(counts, mean_score)
    return ids, weights


# The arguments after `logits`, in the binding's order: a tuple, as a dataclass costs a microsecond.
_Request = tuple[Tensor | None, int, str, bool, float, int, int, Tensor | None]


def _forward(
    logits: Tensor, backend: str, stats: bool, request: _Request
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    tokens, experts = logits.shape if logits.ndim == 2 else (0, 0)
    # A top_k out of range is refused by the binding; until then it must not size an allocation.
    slots, device = min(max(request[1], 0), _MOST_EXPERTS), logits.device
    ids = torch.empty(tokens, slots, dtype=torch.int32, device=device)
    weights = torch.empty(tokens, slots, device=device)
    counts = mean_score = None
    if stats:
        counts = torch.empty(experts, dtype=torch.int64, device=device)
        mean_score = torch.empty(experts, device=device)
    native(backend).route(logits, *request, ids, weights, counts, mean_score)
    return ids, weights, counts, mean_score


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, backend: str, stats: bool, request: _Request):
        ids, weights, counts, mean_score = _forward(logits, backend, stats, request)
        ctx.save_for_backward(logits, ids)
        ctx.backend, (ctx.scoring, ctx.normalize, ctx.scaling) = backend, request[2:5]
        ctx.mark_non_differentiable(*(t for t in (ids, counts) if t is not None))
        ctx.set_materialize_grads(False)
        return ids, weights, counts, mean_score

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _ids, grad_weights, _counts, grad_mean_score):
        logits, ids = ctx.saved_tensors
        grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
        grads = (None if g is None else g.contiguous() for g in (grad_weights, grad_mean_score))
        native(ctx.backend).route_backward(
            logits, ids, ctx.scoring, ctx.normalize, ctx.scaling, *grads, grad_logits
        )
        return grad_logits, None, None, None
