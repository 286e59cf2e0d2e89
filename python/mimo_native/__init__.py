"""Layers, kernels, inference and training of the MiMo-V2-Flash system, on CPUs and NVIDIA GPUs.

Public names load on first use, because torch takes a second to import and ``mimo-native --help``
should not.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import backends, cache, inference, mopd, nn, ops, pretrain, reference, training
    from .config import MiMoConfig
    from .errors import CheckpointError, ShapeError, UnsupportedError
    from .inference import Completion, Sampling, generate, stream
    from .loading import load
    from .nn import MiMoForCausalLM
    from .self_test import selftest

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Completion",
    "MiMoConfig",
    "MiMoForCausalLM",
    "Sampling",
    "ShapeError",
    "UnsupportedError",
    "backends",
    "cache",
    "generate",
    "inference",
    "load",
    "mopd",
    "nn",
    "ops",
    "pretrain",
    "reference",
    "selftest",
    "stream",
    "training",
]

# The module each public name comes from; the other names are modules themselves.
_HOME = {
    "CheckpointError": "errors",
    "Completion": "inference",
    "MiMoConfig": "config",
    "MiMoForCausalLM": "nn",
    "Sampling": "inference",
    "ShapeError": "errors",
    "UnsupportedError": "errors",
    "generate": "inference",
    "load": "loading",
    "selftest": "self_test",
    "stream": "inference",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = import_module(f".{_HOME.get(name, name)}", __name__)
    if name in _HOME:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
