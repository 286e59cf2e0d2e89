"""The passes of the losses over the vocabulary, their gradients and their registration.

Logits exist for a chunk of the vocabulary at a time. The forward pass leaves the largest logit and
the sum of exponentials of every row. The backward pass takes the vocabulary slice by slice: the
slice's logit gradients, formed from the kept weights or from logits formed again, are multiplied by
the head and by the hidden states at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling

from ..backends import choose, native, wants_grad
from ..errors import UnsupportedError
from ._coded import quantizes_rows, stored_format
from ._library import register_op
from ._packed import PackedWeight
from .gemm import any_weight, flat_weight, native_weight, require_weight, weight_shape

__all__ = ["NO_ID", "Weight", "divergence", "logprob"]

Weight = Tensor | PackedWeight

NO_ID = -(2**63)  # a row without target
_CHUNK = 1024  # ids of a softmax chunk


def _coded(weight: Weight) -> bool:
    return isinstance(weight, PackedWeight) and weight.format not in ("bf16", "f32")


def _require_whole_rows(op: str, weight: Weight) -> None:
    if isinstance(weight, PackedWeight) and quantizes_rows(weight.format):
        remedy = f"Pack the head as {stored_format(weight.format)!r}."
        raise UnsupportedError(op, [f"no gradient through a {weight.format} head"], remedy=remedy)


def _same_dtype(hidden: Tensor, weight: Weight) -> Tensor:
    """bfloat16 rows of a float32 head are widened, so that the products of the backward fit."""
    narrow = hidden.dtype == torch.bfloat16 and weight.dtype == torch.float32
    narrow = narrow and not _coded(weight)
    return hidden.float() if narrow else hidden


def logprob(
    op: str, hidden: Tensor, weight: Weight, ids: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    """logprobs [N, K], 0 for NO_ID, and the entropy [N], or [0] where it is not asked for."""
    hidden = _same_dtype(hidden, weight)
    if is_compiling():
        flat = flat_weight(weight)
        out = torch.ops.mimo_native.linear_logprob(op, hidden, *flat, ids, temperature, entropy)
        return out[0], out[1]
    if wants_grad(hidden, weight):
        _require_whole_rows(op, weight)
        return _LogProb.apply(op, hidden, weight, ids, temperature, entropy)
    return _run_logprob(op, hidden, weight, ids, temperature, entropy)[:2]


def _run_logprob(
    op: str,
    hidden: Tensor,
    weight: Weight,
    ids: Tensor,
    temperature: float,
    entropy: bool,
    kept: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:
    """logprobs [N, K], entropy [N] or [0], and (top, total) [N, 2] of every row.

    kept: see _LogProb; filled in where it is given.
    """
    require_weight(op, weight, 2, "[V, D]", "weight")
    rows = hidden.shape[0]
    logprobs = torch.empty(ids.shape)
    entropies = torch.empty(rows if entropy else 0)
    stats = torch.empty(rows, 2, dtype=torch.float64)
    native("cpu").loss_forward(
        op,
        hidden,
        *native_weight(weight),
        None,
        None,
        None,
        ids.contiguous(),
        temperature,
        stats,
        None,
        logprobs,
        entropies if entropy else None,
        None,
        *kept,
    )
    return logprobs, entropies, stats


def _logprob_backward(
    hidden: Tensor,
    weight: Weight,
    ids: Tensor,
    temperature: float,
    stats: Tensor,
    entropy: Tensor,
    d_logprobs: Tensor,
    d_entropy: Tensor | None,
    needs_hidden: bool,
    needs_weight: bool,
    kept: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    top, total = stats.unbind(1)
    id_grads = d_logprobs.float().masked_fill(ids < 0, 0.0)
    a, b = -id_grads.double().sum(1), torch.zeros_like(top)
    if entropy.numel() and d_entropy is not None:
        a = a - d_entropy * (entropy - total.log())
        b = b - d_entropy
    rows = torch.stack((top, 1 / total, a, b), 1).float()
    scale = 1.0 / temperature
    student = hidden, weight, needs_hidden, needs_weight
    return _backward(*student, None, scale, rows, None, ids, id_grads, kept)


def _backward(
    hidden: Tensor,
    weight: Weight,
    needs_hidden: bool,
    needs_weight: bool,
    teacher: tuple[Tensor, Weight] | None,
    scale: float,
    rows: Tensor,
    teacher_top: Tensor | None,
    ids: Tensor,
    id_grads: Tensor,
    kept: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    if _coded(weight):  # the products of the backward need the values
        dtype, hidden, weight = hidden.dtype, hidden.float(), weight.unpack()
        dx, _ = _backward(
            hidden, weight, needs_hidden, False, teacher, scale, rows, teacher_top, ids, id_grads
        )
        return (dx if dx is None else dx.to(dtype)), None
    dx = torch.empty(hidden.shape, dtype=hidden.dtype) if needs_hidden else None
    dw, chunk_largest = kept or (None, None)
    if dw is None and needs_weight:
        dw = torch.empty(weight.shape, dtype=weight.dtype)
    other = (None, None, None) if teacher is None else (teacher[0], *native_weight(teacher[1]))
    native("cpu").loss_backward(
        hidden,
        *native_weight(weight),
        *other,
        scale,
        rows,
        teacher_top,
        ids.contiguous(),
        id_grads.contiguous(),
        dx,
        dw,
        chunk_largest,
    )
    return dx, dw


class _LogProb(torch.autograd.Function):
    """The forward pass leaves the weights of its logits where the backward will put dW."""

    @staticmethod
    def forward(ctx, op, hidden, weight, ids, temperature, entropy):
        ctx.kept = None
        if ctx.needs_input_grad[2] and not entropy and weight.ndim == 2:
            chunks = -(-weight.shape[0] // _CHUNK)
            ctx.kept = (
                torch.empty(weight.shape, dtype=weight.dtype),
                torch.empty(chunks, hidden.shape[0]),
            )
        logprobs, entropies, stats = _run_logprob(
            op, hidden, weight, ids, temperature, entropy, ctx.kept or (None, None)
        )
        ctx.save_for_backward(hidden, flat_weight(weight)[0], ids, stats, entropies)
        ctx.spec, ctx.temperature = flat_weight(weight)[1], temperature
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx, d_logprobs, d_entropy):
        hidden, weight, ids, stats, entropy = ctx.saved_tensors
        # Used up by dW: a second backward through a retained graph forms the logits again.
        kept, ctx.kept = ctx.kept, None
        dx, dw = _logprob_backward(
            hidden,
            any_weight(weight, ctx.spec),
            ids,
            ctx.temperature,
            stats,
            entropy,
            d_logprobs,
            d_entropy,
            *ctx.needs_input_grad[1:3],
            kept,
        )
        return None, dx, dw, None, None, None


def divergence(
    hidden: Tensor,
    weight: Weight,
    teacher_hidden: Tensor,
    teacher_weight: Weight,
    temperature: float,
) -> Tensor:
    """KL(student || teacher) of every row over the whole vocabulary, [N]."""
    hidden = _same_dtype(hidden, weight)
    if is_compiling():
        flat = *flat_weight(weight), teacher_hidden, *flat_weight(teacher_weight)
        return torch.ops.mimo_native.linear_reverse_kl(hidden, *flat, temperature)[0]
    args = hidden, weight, teacher_hidden, teacher_weight, temperature
    if not wants_grad(hidden, weight):
        return _run_divergence(*args)[0]
    _require_whole_rows("linear_reverse_kl", weight)
    return _Divergence.apply(*args)


def _run_divergence(
    hidden: Tensor,
    weight: Weight,
    teacher_hidden: Tensor,
    teacher_weight: Weight,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """KL [N], and (top, total) [N, 2] of student and teacher."""
    for name, w in (("weight", weight), ("teacher_weight", teacher_weight)):
        require_weight("linear_reverse_kl", w, 2, "[V, D]", name)
    rows = hidden.shape[0]
    divergence = torch.empty(rows)
    stats, teacher_stats = (torch.empty(rows, 2, dtype=torch.float64) for _ in range(2))
    native("cpu").loss_forward(
        "linear_reverse_kl",
        hidden,
        *native_weight(weight),
        teacher_hidden,
        *native_weight(teacher_weight),
        torch.empty(rows, 0, dtype=torch.int64),
        temperature,
        stats,
        teacher_stats,
        torch.empty(rows, 0),
        None,
        divergence,
        None,
        None,
    )
    return divergence, stats, teacher_stats


def _divergence_backward(
    student: tuple[Tensor, Weight],
    teacher: tuple[Tensor, Weight],
    temperature: float,
    divergence: Tensor,
    stats: Tensor,
    teacher_stats: Tensor,
    grad: Tensor,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    top, total = stats.unbind(1)
    teacher_top, teacher_total = teacher_stats.unbind(1)
    a = grad * (teacher_total.log() - total.log() - divergence)
    rows = torch.stack((top, 1 / total, a, grad.double()), 1).float()
    ids = torch.empty(len(rows), 0, dtype=torch.int64)
    return _backward(
        *student,
        needs_hidden,
        needs_weight,
        teacher,
        1.0 / temperature,
        rows,
        teacher_top.float(),
        ids,
        torch.empty(len(rows), 0),
    )


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, teacher_hidden, teacher_weight, temperature):
        out = _run_divergence(hidden, weight, teacher_hidden, teacher_weight, temperature)
        (w, ctx.spec), (tw, ctx.teacher_spec) = flat_weight(weight), flat_weight(teacher_weight)
        ctx.save_for_backward(hidden, w, teacher_hidden, tw, *out)
        ctx.temperature = temperature
        return out[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, w, teacher_hidden, tw, *out = ctx.saved_tensors
        dx, dw = _divergence_backward(
            (hidden, any_weight(w, ctx.spec)),
            (teacher_hidden, any_weight(tw, ctx.teacher_spec)),
            ctx.temperature,
            *out,
            grad,
            *ctx.needs_input_grad[:2],
        )
        return dx, dw, None, None, None


def _require_native(backend: str) -> None:
    if backend == "reference":
        reason = "the reference of a loss is not compiled"
        raise UnsupportedError("linear loss", [reason], remedy="Call it outside torch.compile.")


def _logprob_op(op, hidden, weight, spec, ids, temperature, entropy):
    w = any_weight(weight, spec)
    _require_native(choose(op, hidden, w, ids))
    return _run_logprob(op, hidden, w, ids, temperature, entropy)


def _logprob_fake(op, hidden, weight, spec, ids, temperature, entropy):
    rows = hidden.shape[0]
    return (
        hidden.new_empty(ids.shape, dtype=torch.float32),
        hidden.new_empty(rows if entropy else 0, dtype=torch.float32),
        hidden.new_empty((rows, 2), dtype=torch.float64),
    )


def _logprob_context(ctx, inputs, output) -> None:
    _, hidden, weight, ctx.spec, ids, ctx.temperature, _ = inputs
    _, entropy, stats = output
    ctx.save_for_backward(hidden, weight, ids, entropy, stats)


def _logprob_grad(ctx, d_logprobs, d_entropy, d_stats):
    hidden, weight, ids, entropy, stats = ctx.saved_tensors
    needs_x, needs_w = ctx.needs_input_grad[1], ctx.needs_input_grad[2] and ctx.spec is None
    dx, dw = torch.ops.mimo_native.linear_logprob_backward(
        hidden,
        weight,
        ctx.spec,
        ids,
        ctx.temperature,
        stats,
        entropy,
        d_logprobs,
        d_entropy,
        needs_x,
        needs_w,
    )
    grads = (dx if needs_x else None), (dw if needs_w else None)
    return None, *grads, None, None, None, None


def _filled(hidden: Tensor, grads: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(hidden.new_empty(0) if grad is None else grad for grad in grads)


def _grads_fake(hidden, weight, spec, needs_hidden, needs_weight):
    dx = hidden.new_empty(hidden.shape if needs_hidden else 0)
    dw = hidden.new_empty(weight_shape(weight, spec) if needs_weight else 0)
    return dx, dw


register_op(
    "linear_logprob(str op, Tensor hidden, Tensor weight, int[]? spec, Tensor ids,"
    " float temperature, bool entropy) -> (Tensor, Tensor, Tensor)",
    _logprob_op,
    _logprob_fake,
    setup_context=_logprob_context,
    backward=_logprob_grad,
)
register_op(
    "linear_logprob_backward(Tensor hidden, Tensor weight, int[]? spec, Tensor ids,"
    " float temperature, Tensor stats, Tensor entropy, Tensor d_logprobs, Tensor d_entropy,"
    " bool needs_hidden, bool needs_weight) -> (Tensor, Tensor)",
    lambda hidden, weight, spec, *rest: _filled(
        hidden, _logprob_backward(hidden, any_weight(weight, spec), *rest)
    ),
    lambda hidden, weight, spec, ids, t, stats, ent, d, d_ent, needs_hidden, needs_weight: (
        _grads_fake(hidden, weight, spec, needs_hidden, needs_weight)
    ),
)


def _divergence_op(hidden, weight, spec, teacher_hidden, teacher_weight, teacher_spec, temperature):
    w, tw = any_weight(weight, spec), any_weight(teacher_weight, teacher_spec)
    _require_native(choose("linear_reverse_kl", hidden, w, teacher_hidden))
    return _run_divergence(hidden, w, teacher_hidden, tw, temperature)


def _divergence_fake(hidden, weight, spec, teacher_hidden, teacher_weight, teacher_spec, t):
    rows = hidden.shape[0]
    stats = [hidden.new_empty((rows, 2), dtype=torch.float64) for _ in range(2)]
    return hidden.new_empty(rows, dtype=torch.float32), *stats


def _divergence_context(ctx, inputs, output) -> None:
    hidden, w, ctx.spec, teacher_hidden, tw, ctx.teacher_spec, ctx.temperature = inputs
    ctx.save_for_backward(hidden, w, teacher_hidden, tw, *output)


def _divergence_grad(ctx, grad, d_stats, d_teacher_stats):
    hidden, w, teacher_hidden, tw, *out = ctx.saved_tensors
    needs_x, needs_w = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and ctx.spec is None
    student, teacher = (hidden, w, ctx.spec), (teacher_hidden, tw, ctx.teacher_spec)
    dx, dw = torch.ops.mimo_native.linear_reverse_kl_backward(
        *student, *teacher, ctx.temperature, *out, grad, needs_x, needs_w
    )
    grads = (dx if needs_x else None), (dw if needs_w else None)
    return *grads, None, None, None, None, None


register_op(
    "linear_reverse_kl(Tensor hidden, Tensor weight, int[]? spec, Tensor teacher_hidden,"
    " Tensor teacher_weight, int[]? teacher_spec, float temperature) -> (Tensor, Tensor, Tensor)",
    _divergence_op,
    _divergence_fake,
    setup_context=_divergence_context,
    backward=_divergence_grad,
)
register_op(
    "linear_reverse_kl_backward(Tensor hidden, Tensor weight, int[]? spec, Tensor teacher_hidden,"
    " Tensor teacher_weight, int[]? teacher_spec, float temperature, Tensor divergence,"
    " Tensor stats, Tensor teacher_stats, Tensor grad, bool needs_hidden, bool needs_weight)"
    " -> (Tensor, Tensor)",
    lambda hidden, w, spec, teacher_hidden, tw, teacher_spec, *rest: _filled(
        hidden,
        _divergence_backward(
            (hidden, any_weight(w, spec)), (teacher_hidden, any_weight(tw, teacher_spec)), *rest
        ),
    ),
    lambda hidden, w, spec, th, tw, ts, t, kl, stats, t_stats, grad, needs_hidden, needs_weight: (
        _grads_fake(hidden, w, spec, needs_hidden, needs_weight)
    ),
)
