"""Gradients of attention and attention_varlen, and both as nodes of a compiled graph."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import reference
from ..backends import choose, native
from ._library import autograd_of, register_op

__all__ = ["Options", "attend", "attend_with_grad"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a call asks for beside its tensors with gradients; packed with ``cu_seqlens_q``."""

    scale: float | None = None
    causal: bool = True
    window_keys: int | None = None
    kv_lens: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None

    @property
    def op(self) -> str:
        return "attention" if self.cu_seqlens_q is None else "attention_varlen"


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    options: Options,
    *,
    lse: bool,
    backend: str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """The forward kernel; with the lse where it is wanted."""
    o = options
    if backend == "cpu":
        _C = native("cpu")
        if o.cu_seqlens_q is None:
            return _C.attention(q, k, v, o.scale, o.causal, o.window_keys, sink, o.kv_lens, lse)
        edges = (o.cu_seqlens_q, o.cu_seqlens_k)
        return _C.attention_varlen(q, k, v, *edges, o.scale, o.causal, o.window_keys, sink, lse)
    out = torch.empty(q.shape[:-1] + v.shape[-1:], dtype=q.dtype, device=q.device)
    sums = torch.empty(lse_shape(q), dtype=torch.float32, device=q.device) if lse else None
    module = native(backend)
    if o.cu_seqlens_q is None:
        module.attention(q, k, v, out, sums, o.scale, o.causal, o.window_keys, sink, o.kv_lens)
    else:
        edges = (o.cu_seqlens_q.to(q.device), o.cu_seqlens_k.to(q.device))
        module.attention_varlen(q, k, v, out, sums, *edges, o.scale, o.causal, o.window_keys, sink)
    return out, sums


def attend_with_grad(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """o and lse, recorded by autograd; a loss may use either or both."""
    return _Attend.apply(q, k, v, sink, options)


def lse_shape(q: Tensor) -> torch.Size:
    """[B, T, Hq, D] -> [B, Hq, T], [N, Hq, D] -> [Hq, N]."""
    return q.shape[:-3] + q.shape[-2:-1] + q.shape[-3:-2]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, options: Options):
        out, lse = attend(q, k, v, sink, options, lse=True)
        ctx.save_for_backward(q, k, v, sink, out, lse)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor | None, dlse: Tensor | None):
        q, k, v, sink, out, lse = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(out)
        needs_sink = ctx.needs_input_grad[3]
        grads = _gradients(dout, dlse, q, k, v, sink, out, lse, ctx.options, needs_sink)
        return *grads, None


def _gradients(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Tensor | None,
    out: Tensor,
    lse: Tensor,
    options: Options,
    needs_sink: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv and, where it is wanted, dsink, in the dtypes of their tensors."""
    if dout.stride(-1) != 1:  # a sum's gradient is one number, expanded
        dout = dout.clone(memory_format=torch.contiguous_format)
    if dlse is not None:
        dlse = dlse.contiguous()
    _C, o = native("cpu"), options
    call = (o.scale, o.causal, o.window_keys, sink)
    if o.cu_seqlens_q is None:
        grads = _C.attention_backward(dout, dlse, q, k, v, out, lse, *call, o.kv_lens, needs_sink)
    else:
        edges = (o.cu_seqlens_q, o.cu_seqlens_k)
        grads = _C.attention_varlen_backward(
            dout, dlse, q, k, v, out, lse, *edges, *call, needs_sink
        )
    dsink = grads[3]
    if dsink is not None and dsink.dtype != sink.dtype:
        return *grads[:3], dsink.to(sink.dtype)
    return grads


# In compiled code every call gives its lse: one node whether it is used or not.
_DENSE = "Tensor? sink, float? scale, bool causal, int? window_keys, Tensor? kv_lens"
_PACKED = (
    "Tensor? sink, float? scale, bool causal, int? window_keys, "
    "Tensor cu_seqlens_q, Tensor cu_seqlens_k"
)


def _options(rest: tuple) -> Options:
    """From what follows ``sink`` in either schema."""
    scale, causal, window_keys, *lengths = rest
    if len(lengths) == 1:
        return Options(scale, causal, window_keys, kv_lens=lengths[0])
    return Options(scale, causal, window_keys, None, *lengths)


def _arguments(sink: Tensor | None, o: Options) -> dict[str, object]:
    lengths = {"kv_lens": o.kv_lens}
    if o.cu_seqlens_q is not None:
        lengths = {"cu_seqlens_q": o.cu_seqlens_q, "cu_seqlens_k": o.cu_seqlens_k}
    common = {"scale": o.scale, "causal": o.causal, "window_keys": o.window_keys}
    return {"sink": sink, "return_lse": True, **common, **lengths}


def _forward(q, k, v, sink, *rest):
    options = _options(rest)
    backend = choose(options.op, q, k, v, needs_grad=False)
    if backend == "reference":
        return getattr(reference, options.op)(q, k, v, **_arguments(sink, options))
    return attend(q, k, v, sink, options, lse=True, backend=backend)


def _forward_fake(q, k, v, sink, *rest):
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape[:-1] + v.shape[-1:]), q.new_empty(lse_shape(q), dtype=wide)


def _backward(dout, dlse, q, k, v, out, lse, sink, *rest):
    options = _options(rest)
    if choose(options.op, q, k, v, needs_grad=True) == "reference":

        def f(q, k, v, sink):
            return getattr(reference, options.op)(q, k, v, **_arguments(sink, options))

        grads = autograd_of(f, (q, k, v, sink), (dout, dlse))
    else:
        grads = _gradients(dout, dlse, q, k, v, sink, out, lse, options, sink is not None)
    return (*grads[:3], q.new_empty(0) if sink is None else grads[3])


def _backward_fake(dout, dlse, q, k, v, out, lse, sink, *rest):
    dsink = q.new_empty(0) if sink is None else sink.new_empty(sink.shape)
    return (*(t.new_empty(t.shape) for t in (q, k, v)), dsink)


def _setup_context(ctx, inputs, output) -> None:
    q, k, v, sink, ctx.scale, ctx.causal, ctx.window_keys, *lengths = inputs
    ctx.save_for_backward(q, k, v, sink, *output, *lengths)


def _autograd(op: str):
    def backward(ctx, dout, dlse):
        q, k, v, sink, out, lse, *lengths = ctx.saved_tensors
        call = (ctx.scale, ctx.causal, ctx.window_keys, *lengths)
        grads = getattr(torch.ops.mimo_native, f"{op}_backward")(
            dout, dlse, q, k, v, out, lse, sink, *call
        )
        dsink = grads[3] if sink is not None else None
        return (*grads[:3], dsink, *(None for _ in call))

    return backward


for _op, _rest in (("attention", _DENSE), ("attention_varlen", _PACKED)):
    register_op(
        f"{_op}(Tensor q, Tensor k, Tensor v, {_rest}) -> (Tensor, Tensor)",
        _forward,
        _forward_fake,
        setup_context=_setup_context,
        backward=_autograd(_op),
    )
    register_op(
        f"{_op}_backward(Tensor dout, Tensor dlse, Tensor q, Tensor k, Tensor v, Tensor out,"
        f" Tensor lse, {_rest}) -> (Tensor, Tensor, Tensor, Tensor)",
        _backward,
        _backward_fake,
    )
