"""Which code serves a call: declared capabilities, the choice, and its explanation.

A backend declares what it serves and is never asked for more: the call is refused with reasons, so
no option is dropped in silence. The device of the tensors decides between "cpu" and "cuda"; the
plain torch of ``mimo_native.reference`` runs only where it is asked for:

    with mimo_native.backends.use("reference"):
        y = mimo_native.ops.linear(x, w)

The choice belongs to a context, never to the process: a teacher and a student may differ.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from . import env
from .errors import UnsupportedError

__all__ = [
    "Explanation",
    "choose",
    "explain",
    "forced",
    "native",
    "register",
    "simulated",
    "use",
    "wants_grad",
]

NAMES = ("cpu", "cuda", "reference")
_REMEDY = 'The plain torch of mimo_native.backends.use("reference") serves every case, slowly.'


@dataclass(frozen=True)
class _Capability:
    dtypes: frozenset[torch.dtype]
    options: frozenset[str]
    gradient: bool
    limit: Callable[..., str | None] | None


_forced: ContextVar[str | None] = ContextVar("mimo_native_backend", default=None)
# Stands in for "cuda", with tensors on the CPU (mimo_native.testing.simulated_gpu).
_simulated: ContextVar[Any] = ContextVar("mimo_native_simulated", default=None)
_registry: dict[tuple[str, str], _Capability] = {}
# What choose() answers whatever the options, provided the limit, if there is one, has no objection.
_settled: dict[tuple[object, ...], tuple[str, Callable[..., str | None] | None]] = {}


@dataclass(frozen=True)
class Explanation:
    """``backend`` runs, or nothing where it is None; ``reasons`` why each other one does not."""

    op: str
    backend: str | None
    reasons: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        refusals = [f"  not {name}: {'; '.join(why)}" for name, why in self.reasons.items()]
        return "\n".join([f"{self.op}: {self.backend or 'nothing'} runs", *refusals])

    __repr__ = __str__


def register(
    op: str,
    backend: str,
    *,
    dtypes: Iterable[torch.dtype],
    options: Iterable[str] = (),
    gradient: bool = False,
    limit: Callable[..., str | None] | None = None,
) -> None:
    """Declare what ``backend``, "cpu" or "cuda", serves of ``op``.

    dtypes    of the first tensor
    options   the optional arguments that it honours
    gradient  whether it has a backward
    limit     further conditions on the tensors, head dimensions say: a reason to refuse, or None
    """
    _registry[op, backend] = _Capability(frozenset(dtypes), frozenset(options), gradient, limit)
    _settled.clear()


@contextlib.contextmanager
def use(backend: str | None) -> Iterator[None]:
    """Serve the calls of this context by "cpu", "cuda" or "reference", or refuse them.

    None returns to the default. Also a decorator. Raises UnsupportedError for an unknown name.
    """
    if backend is not None and backend not in NAMES:
        raise UnsupportedError("backends.use", [f"no backend {backend!r}; there are {NAMES}"])
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


def forced() -> str | None:
    """The backend that the context asks for, None where it leaves the choice."""
    return _forced.get()


def wants_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd would record a call with these arguments."""
    if is_grad_enabled():
        for tensor in tensors:
            if getattr(tensor, "requires_grad", False):  # a packed weight has no such attribute
                return True
    return False


def choose(op: str, *tensors: Tensor, needs_grad: bool | None = None, **options: object) -> str:
    """The backend that serves this call: "cpu", "cuda" or "reference".

    ``tensors`` are the op's in their order; the first gives dtype and device. ``options`` are its
    optional arguments as they were given; one that is None or False asks for nothing.
    ``needs_grad`` defaults to what autograd would do. Raises UnsupportedError with every backend's
    reasons when none fits.
    """
    first = tensors[0]
    if needs_grad is None:
        needs_grad = wants_grad(*tensors)
    try:
        place = first.is_cpu or first.device.type
    except AttributeError:
        got = type(first).__name__
        raise TypeError(f"{op}: expected a torch.Tensor first, got {got}") from None
    key = (op, first.dtype, place, needs_grad, _forced.get(), _simulated.get() is None)
    settled = _settled.get(key)
    if settled is not None:
        backend, limit = settled
        if limit is None or limit(*tensors) is None:
            return backend
    answer = explain(op, *tensors, needs_grad=needs_grad, **options)
    if answer.backend is None:
        reasons = [f"{name}: {reason}" for name, why in answer.reasons.items() for reason in why]
        raise UnsupportedError(op, reasons, remedy=_REMEDY)
    if answer.backend == "reference":
        _settled[key] = ("reference", None)
    elif _options(op) <= _registry[op, answer.backend].options:
        _settled[key] = (answer.backend, _registry[op, answer.backend].limit)
    return answer.backend


def explain(
    op: str, *tensors: Tensor, needs_grad: bool | None = None, **options: object
) -> Explanation:
    """What :func:`choose` would answer here, and why not the others; printing it shows both.

    Raises UnsupportedError for an unknown op or option.
    """
    with contextlib.suppress(ImportError):  # without its extension the CPU serves nothing
        import_module("mimo_native.ops")  # where the kernels are declared
    unknown = sorted(set(options) - _options(op))
    if unknown:
        remedy = f"Known: {', '.join(sorted(_options(op)))}."
        raise UnsupportedError(op, [f"no option {name!r}" for name in unknown], remedy=remedy)
    asked = {name for name, value in options.items() if value is not None and value is not False}
    gradient = wants_grad(*tensors) if needs_grad is None else needs_grad
    backend, forced, reasons = None, _forced.get(), {}
    for name in NAMES:
        if forced not in (None, name):
            why = [f"{forced!r} is asked for"]
        elif name == "reference":
            why = [] if forced else ["runs only where it is asked for"]
        else:
            why = _objections(op, name, tensors, gradient, asked)
        if why:
            reasons[name] = tuple(why)
        else:
            backend = name
    return Explanation(op, backend, reasons)


@contextlib.contextmanager
def simulate(module: object) -> Iterator[None]:
    """Serve the CPU tensors of this context by ``module`` as backend "cuda"."""
    token = _simulated.set(module)
    try:
        yield
    finally:
        _simulated.reset(token)


def simulated() -> bool:
    """Whether the CPU tensors of this context are those of a simulated GPU."""
    return _simulated.get() is not None


def native(backend: str) -> ModuleType:
    """The extension module of "cpu" or "cuda"; UnsupportedError says why it cannot be used."""
    if backend == "cuda" and (simulated := _simulated.get()) is not None:
        return simulated
    return _native(backend)


@cache
def _native(backend: str) -> ModuleType:
    if backend == "cpu":
        try:
            from . import _C
        except ImportError as error:
            reasons = [f"the native extension cannot be imported ({error})"]
            raise UnsupportedError("cpu", reasons, remedy="Install the package anew.") from None
        env.isa(_C.isa_levels())  # the extension passes over a level that it does not have
        return _C
    try:
        from . import _cuda
    except ImportError:
        from ._build_info import BUILD_INFO

        reasons = [f"this build has no CUDA kernels ({BUILD_INFO['cuda']})"]
        remedy = "Move the tensors to the CPU, or rebuild where nvcc is."
        raise UnsupportedError("cuda", reasons, remedy=remedy) from None
    problem = _cuda.unavailable_reason()
    if problem:
        raise UnsupportedError("cuda", [problem], remedy="Move the tensors to the CPU.")
    return _cuda


def _objections(
    op: str, backend: str, tensors: tuple[Tensor, ...], gradient: bool, asked: set[str]
) -> list[str]:
    dtype, device = tensors[0].dtype, tensors[0].device.type
    if device == "cpu" and _simulated.get() is not None:
        device = "cuda"
    if device != backend:
        return [f"the tensors are on {device!r}"]
    why = _missing(backend)
    serves = _registry.get((op, backend))
    if serves is None:
        return why or ["has no kernel for it"]
    if dtype not in serves.dtypes:
        names = sorted(str(known).removeprefix("torch.") for known in serves.dtypes)
        why.append(f"{str(dtype).removeprefix('torch.')} is not one of {', '.join(names)}")
    if gradient and not serves.gradient:
        why.append("has no backward, and a gradient is needed")
    why += [f"does not serve {name}" for name in sorted(asked - serves.options)]
    limit = serves.limit(*tensors) if serves.limit else None
    return [*why, limit] if limit else why


def _missing(backend: str) -> list[str]:
    try:
        native(backend)
    except UnsupportedError as error:
        return list(error.reasons)
    return []


@cache
def _options(op: str) -> frozenset[str]:
    """The optional arguments of an op, read from the signature of its reference."""
    from . import reference

    if op not in reference.__all__:
        remedy = f"Known: {', '.join(reference.__all__)}."
        raise UnsupportedError(op, ["no such operation"], remedy=remedy)
    parameters = inspect.signature(getattr(reference, op)).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
