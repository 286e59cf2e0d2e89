"""Which code serves a call: declared capabilities, the choice, and its explanation.

A backend declares what it serves and is never asked for more: the call is refused with reasons, so
no option is dropped in silence. The device of the tensors decides between "cpu" and "cuda"; the
plain torch of ``mimo_native.reference`` runs only where it is asked for:

    with mimo_native.backends.use("reference"):
        y = mimo_native.ops.linear(x, w)

The choice belongs to a context, never to the process: a teacher and a student may differ.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .errors import UnsupportedError

__all__ = ["Capability", "Explanation", "choose", "explain", "register", "use", "wants_grad"]

_MODULES = {
    "cpu": "mimo_native._C",
    "cuda": "mimo_native._cuda",
    "reference": "mimo_native.reference",
}
_REMEDY = 'The plain torch of mimo_native.backends.use("reference") serves every case, slowly.'

_forced: ContextVar[str | None] = ContextVar("mimo_native_backend", default=None)
_registry: dict[tuple[str, str], "Capability"] = {}
# Answers of choose() that no option and no shape can change.
_settled: dict[tuple[object, ...], str] = {}


@dataclass(frozen=True)
class Capability:
    """What a backend serves of an op; the first tensor of a call gives dtype and device.

    options   the optional arguments that it honours; one that is None or False asks for nothing
    gradient  whether it has a backward
    limit     further conditions on the tensors, head dimensions say: a reason to refuse, or None
    """

    dtypes: frozenset[torch.dtype]
    options: frozenset[str] = frozenset()
    gradient: bool = False
    limit: Callable[..., str | None] | None = None


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


def register(op: str, backend: str, capability: Capability) -> None:
    """Declare what ``backend``, "cpu" or "cuda", serves of ``op``."""
    _registry[op, backend] = capability
    _settled.clear()


@contextlib.contextmanager
def use(backend: str | None) -> Iterator[None]:
    """Serve the calls of this context by "cpu", "cuda" or "reference", or refuse them.

    None returns to the default. Also a decorator. Raises UnsupportedError for an unknown name.
    """
    if backend is not None and backend not in _MODULES:
        known = ", ".join(map(repr, _MODULES))
        raise UnsupportedError(
            "backends.use", [f"no backend {backend!r}"], remedy=f"Known: {known}."
        )
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


def wants_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd would record a call with these arguments."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if getattr(tensor, "requires_grad", False):  # a packed weight has no such attribute
                return True
    return False


def choose(op: str, *tensors: Tensor, needs_grad: bool = False, **options: object) -> str:
    """The backend that serves this call: "cpu", "cuda" or "reference".

    ``tensors`` are the op's in their order, ``options`` its optional arguments as they were given.
    Raises UnsupportedError with every backend's reasons when none fits.
    """
    first = tensors[0]
    key = (op, first.dtype, first.is_cpu or first.device.type, needs_grad, _forced.get())
    settled = _settled.get(key)
    if settled is not None:
        return settled
    answer = explain(op, *tensors, needs_grad=needs_grad, **options)
    if answer.backend is None:
        reasons = [f"{name}: {reason}" for name, why in answer.reasons.items() for reason in why]
        raise UnsupportedError(op, reasons, remedy=_REMEDY)
    if answer.backend == "reference" or _serves_all(op, _registry[op, answer.backend]):
        _settled[key] = answer.backend
    return answer.backend


def explain(
    op: str, *tensors: Tensor, needs_grad: bool | None = None, **options: object
) -> Explanation:
    """What :func:`choose` would answer here, and why not the others; printing it shows both.

    ``needs_grad`` defaults to what autograd would do. Raises UnsupportedError for an unknown op or
    option.
    """
    unknown = sorted(set(options) - _options(op))
    if unknown:
        remedy = f"Known: {', '.join(sorted(_options(op)))}."
        raise UnsupportedError(op, [f"no option {name!r}" for name in unknown], remedy=remedy)
    asked = {name for name, value in options.items() if value is not None and value is not False}
    gradient = wants_grad(*tensors) if needs_grad is None else needs_grad
    backend, forced, reasons = None, _forced.get(), {}
    for name in _MODULES:
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


def _objections(
    op: str, backend: str, tensors: tuple[Tensor, ...], gradient: bool, asked: set[str]
) -> list[str]:
    dtype, device = tensors[0].dtype, tensors[0].device.type
    if device != backend:
        return [f"the tensors are on {device!r}"]
    if (op, backend) not in _registry:
        return ["has no kernel for it"]
    why = [_missing(backend)] if _missing(backend) else []
    serves = _registry[op, backend]
    if dtype not in serves.dtypes:
        names = sorted(str(known).removeprefix("torch.") for known in serves.dtypes)
        why.append(f"{str(dtype).removeprefix('torch.')} is not one of {', '.join(names)}")
    if gradient and not serves.gradient:
        why.append("has no backward, and a gradient is needed")
    why += [f"does not serve {name}" for name in sorted(asked - serves.options)]
    limit = serves.limit(*tensors) if serves.limit else None
    return [*why, limit] if limit else why


@cache
def _missing(backend: str) -> str:
    """Why the extension module of a backend cannot be used; empty if it can."""
    try:
        importlib.import_module(_MODULES[backend])
    except ImportError as error:
        return f"its extension module cannot be imported ({error})"
    return ""


@cache
def _options(op: str) -> frozenset[str]:
    """The optional arguments of an op, read from the signature of its reference."""
    reference = importlib.import_module(_MODULES["reference"])
    if op not in reference.__all__:
        remedy = f"Known: {', '.join(reference.__all__)}."
        raise UnsupportedError(op, ["no such operation"], remedy=remedy)
    parameters = inspect.signature(getattr(reference, op)).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _serves_all(op: str, serves: Capability) -> bool:
    return serves.limit is None and _options(op) <= serves.options
