"""Which implementation serves a call: "cpu" (native), "cuda" or "reference" (plain torch).

The choice belongs to a call or to a context, never to the process: a student and its teachers may
want different ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

from . import _C
from ._build_info import BUILD_INFO
from .errors import UnsupportedError

__all__ = ["NAMES", "choose", "native", "use"]

NAMES = ("cpu", "cuda", "reference")

# Ops whose native implementation has a backward.
_DIFFERENTIABLE: set[str] = set()

_forced: ContextVar[str | None] = ContextVar("mimo_native_backend", default=None)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Serve every op of this context (thread, task) with backend ``name``."""
    if name not in NAMES:
        raise UnsupportedError("backends.use", [f"no backend {name!r}; there are {NAMES}"])
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose(op: str, *tensors: torch.Tensor) -> str:
    """The backend for ``op`` on ``tensors``; the first one's device decides."""
    forced = _forced.get()
    if forced is not None:
        return forced
    if torch.is_grad_enabled() and op not in _DIFFERENTIABLE:
        for tensor in tensors:
            if tensor.requires_grad:
                raise UnsupportedError(
                    op,
                    ["a gradient is needed and the native op has no backward"],
                    remedy='Run it under mimo_native.backends.use("reference") or torch.no_grad().',
                )
    return "cpu" if tensors[0].is_cpu else "cuda"


def native(backend: str) -> ModuleType:
    """The extension module that implements ``backend``; says why CUDA cannot run when it cannot."""
    if backend == "cpu":
        return _C
    try:
        from . import _cuda
    except ImportError:
        reason = f"this build has no CUDA kernels ({BUILD_INFO['cuda']})"
        raise UnsupportedError(
            "cuda", [reason], remedy="Move the tensors to the CPU, or rebuild where nvcc is."
        ) from None
    problem = _cuda.unavailable_reason()
    if problem:
        raise UnsupportedError("cuda", [problem], remedy="Move the tensors to the CPU.")
    return _cuda
