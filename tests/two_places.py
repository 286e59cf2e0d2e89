"""A GPU that is only a name: tensors that say they are on one, and calls that would fail there.

The simulated GPU serves tensors of the CPU and cannot tell which of them somebody forgot to move.
Here a tensor is on "cuda" once it was moved or made there; its memory stays the CPU's. A torch
function that would meet tensors of both places raises, as on hardware, and the package's kernels
(the simulated GPU's) take none of the CPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mimo_native import backends
from mimo_native.testing import SimulatedGpu, simulated_gpu

__all__ = ["OnGpu", "move", "two_places"]

GPU = torch.device("cuda", 0)
_READS = {"tolist", "item", "__int__", "__float__", "__bool__", "__index__", "__repr__", "__len__"}
_INDEXES = {"__getitem__", "__setitem__"}  # the index may be on the host
_MOVES = {"to", "cpu", "cuda"}


class OnGpu(Tensor):
    """A tensor that was moved to the GPU, or made there."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def _each(value: object, change: Callable[[Tensor], object]) -> object:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        parts = [_each(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _each(part, change) for key, part in value.items()}
    return value


def _here(value: object) -> object:
    return _each(value, lambda t: t.as_subclass(Tensor))


def _there(value: object) -> object:
    return _each(value, lambda t: t.as_subclass(OnGpu))


def _tensors(value: object) -> list[Tensor]:
    found: list[Tensor] = []
    _each(value, found.append)
    return found


def _target(args: tuple, kwargs: dict) -> torch.device | None:
    """The device that a call names."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.device):
            return value
        if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
            return torch.device(value)
    return None


class _Places(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None) -> object:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return _attribute(func, args)
        on_gpu = [isinstance(t, OnGpu) for t in _tensors([args, kwargs])]
        target = _target(args, kwargs)
        place = any(on_gpu) if target is None else target.type == "cuda"
        if name in _MOVES:
            place = {"cpu": False, "cuda": True}.get(name, place)
            kwargs = {k: v for k, v in kwargs.items() if k != "device"}
            rest = [a for a in args if not isinstance(a, torch.device | str)]
            moved = _here(rest[0]).to(*rest[1:], **kwargs) if rest[1:] or kwargs else _here(rest[0])
            return _there(moved) if place else moved
        if name in _READS:
            return func(*_here(args), **kwargs)
        kept = args[:1] + args[2:] if name in _INDEXES else args
        mixed = {isinstance(t, OnGpu) for t in _tensors([kept, kwargs]) if t.ndim}
        if len(mixed) > 1:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        if target is not None:
            kwargs = {k: ("cpu" if k == "device" else v) for k, v in kwargs.items()}
        result = func(*_here(args), **_here(kwargs))
        return _there(result) if place else result


def _attribute(func: Any, args: tuple) -> object:
    """is_cuda and the like; views such as T stay where they are."""
    place = isinstance(args[0], OnGpu)
    name = func.__self__.__name__
    if name in ("device", "is_cuda", "is_cpu") and place:
        return {"device": GPU, "is_cuda": True, "is_cpu": False}[name]
    result = func(*_here(args))
    return _there(result) if place else result


class _Kernels:
    """The simulated GPU's functions for tensors of the GPU."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self._gpu = gpu

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._gpu, name)

        def call(*args: object, **kwargs: object) -> object:
            for tensor in _tensors([args, kwargs]):
                assert isinstance(tensor, OnGpu), f"{name} was given a tensor of the CPU"
            with torch._C.DisableTorchFunction():
                return _there(function(*_here(args), **_here(kwargs)))

        return call


@contextlib.contextmanager
def two_places(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    """Within it "cuda" is a place to move tensors to; its kernels are those of the simulation."""
    native = backends._native
    with simulated_gpu(capability=(8, 0), metrics=False) as gpu, backends.simulate(None):
        kernels = _Kernels(gpu)
        monkeypatch.setattr(
            backends, "_native", lambda name: kernels if name == "cuda" else native(name)
        )
        with _Places():
            yield gpu
    monkeypatch.undo()


def move(model: nn.Module) -> None:
    """``model.cuda()``, within ``two_places``; parameters without gradients."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = _there(tensor.detach())
