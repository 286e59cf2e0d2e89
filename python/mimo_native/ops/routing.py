"""The top-k router of a mixture-of-experts layer, forward and backward."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register, wants_grad
from ..reference import RouteStats
from ._library import register_op

__all__ = ["route"]

_OPTIONS = (
    "bias",
    "top_k",
    "scoring",
    "normalize",
    "scaling",
    "n_group",
    "topk_group",
    "replay_ids",
    "return_stats",
)
register("route", "cpu", dtypes=(torch.float32,), options=_OPTIONS, gradient=True)
register("route", "cuda", dtypes=(torch.float32,), options=_OPTIONS)


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
    On a GPU, where no value is looked at, a NaN score makes the token's weights NaN instead, and so
    does an id to replay that does not exist. Section 2.2 of the report (router of the MoE layers).
    """
    if is_compiling():
        weights, mean_score, ids, counts = torch.ops.mimo_native.route(
            logits,
            bias,
            top_k,
            scoring,
            normalize,
            scaling,
            n_group,
            topk_group,
            replay_ids,
            return_stats,
        )
        return (ids, weights, RouteStats(counts, mean_score)) if return_stats else (ids, weights)
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
    if needs_grad:
        request = (bias, top_k, scoring, normalize, scaling, n_group, topk_group, replay_ids)
        ids, weights, counts, mean_score = _Route.apply(logits, backend, request, return_stats)
    else:
        ids, weights, counts, mean_score = native(backend).route(
            logits,
            bias,
            top_k,
            scoring,
            normalize,
            scaling,
            n_group,
            topk_group,
            replay_ids,
            return_stats,
        )
    if return_stats:
        return ids, weights, RouteStats(counts, mean_score)
    return ids, weights


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, backend: str, request: tuple, stats: bool):
        ids, weights, counts, mean_score = native(backend).route(logits, *request, stats)
        ctx.save_for_backward(logits, ids)
        ctx.backend, (ctx.scoring, ctx.normalize, ctx.scaling) = backend, request[2:5]
        ctx.mark_non_differentiable(*(t for t in (ids, counts) if t is not None))
        ctx.set_materialize_grads(False)
        return ids, weights, counts, mean_score

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _ids, grad_weights, _counts, grad_mean_score):
        rule = (ctx.scoring, ctx.normalize, ctx.scaling)
        grad_logits = _route_backward(
            *ctx.saved_tensors, *rule, grad_weights, grad_mean_score, ctx.backend
        )
        return grad_logits, None, None, None


def _route_backward(
    logits, ids, scoring, normalize, scaling, grad_weights, grad_mean_score, backend=None
) -> Tensor:
    backend = backend or choose("route", logits, needs_grad=True)
    grads = (None if g is None else g.contiguous() for g in (grad_weights, grad_mean_score))
    return native(backend).route_backward(logits, ids, scoring, normalize, scaling, *grads)


def _registered(
    logits, bias, top_k, scoring, normalize, scaling, n_group, topk_group, replay_ids, stats
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is differentiable comes first; without ``stats`` its outputs are empty."""
    ids, weights, *balance = route(
        logits,
        bias=bias,
        top_k=top_k,
        scoring=scoring,
        normalize=normalize,
        scaling=scaling,
        n_group=n_group,
        topk_group=topk_group,
        replay_ids=replay_ids,
        return_stats=stats,
    )
    if not stats:
        return weights, logits.new_empty(0), ids, logits.new_empty(0, dtype=torch.int64)
    return weights, balance[0].mean_score, ids, balance[0].counts


def _fake(logits, bias, top_k, scoring, normalize, scaling, n_group, topk_group, replay_ids, stats):
    tokens, experts = logits.shape
    counted = experts if stats else 0
    return (
        logits.new_empty((tokens, top_k)),
        logits.new_empty(counted),
        logits.new_empty((tokens, top_k), dtype=torch.int32),
        logits.new_empty(counted, dtype=torch.int64),
    )


def _setup_context(ctx, inputs, output) -> None:
    ctx.scoring, ctx.normalize, ctx.scaling = inputs[3:6]
    ctx.stats = inputs[9]
    ctx.save_for_backward(inputs[0], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_weights, grad_mean_score, _ids, _counts):
    grad_logits = torch.ops.mimo_native.route_backward(
        *ctx.saved_tensors,
        ctx.scoring,
        ctx.normalize,
        ctx.scaling,
        grad_weights,
        grad_mean_score if ctx.stats else None,
    )
    return grad_logits, *(None,) * 9


register_op(
    "route(Tensor logits, Tensor? bias, int top_k, str scoring, bool normalize, float scaling,"
    " int n_group, int topk_group, Tensor? replay_ids, bool stats)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _registered,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
register_op(
    "route_backward(Tensor logits, Tensor ids, str scoring, bool normalize, float scaling,"
    " Tensor? grad_weights, Tensor? grad_mean_score) -> Tensor",
    _route_backward,
    lambda logits, *rest: logits.new_empty(logits.shape),
)
