"""Registration with torch.library, so that torch.compile sees a call as one node of its graph.

Only compiled code goes through here: the dispatcher costs more than a small kernel. An op checks
``torch.compiler.is_compiling()`` and then calls ``torch.ops.mimo_native.NAME``, whose
implementation is the eager op itself, so choice of backend, checks and errors are the same.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["autograd_of", "register_op"]

_library = torch.library.Library("mimo_native", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)


def register_op(
    schema: str,
    implementation: Callable[..., object],
    fake: Callable[..., object],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., object] | None = None,
) -> None:
    """Define ``mimo_native::SCHEMA``.

    implementation  the eager op; runs without autograd
    fake            outputs of the right shape, dtype and strides, from tensors without data
    setup_context   (ctx, inputs, output), and
    backward        (ctx, *grads) -> a gradient per input, made of registered ops
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=_TAGS)
    _library.impl(name, torch.no_grad()(implementation), "CompositeExplicitAutograd")
    torch.library.register_fake(f"mimo_native::{name}", fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(
            f"mimo_native::{name}", backward, setup_context=setup_context, lib=_library
        )


def autograd_of(
    function: Callable[..., object], inputs: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """A gradient for each input that there is, zero where none flows: how the backward of a
    compiled node serves the reference backend, which has no kernels for it."""
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
        given = [t for t in leaves if t is not None]
        found = torch.autograd.grad(function(*leaves), given, grads, allow_unused=True)
    missing = (torch.zeros_like(t) if g is None else g for t, g in zip(given, found, strict=True))
    return [None if t is None else next(missing) for t in leaves]
