"""A random case with the way it is called, and the check of what comes out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from mimo_native import _C, UnsupportedError, ops
from mimo_native.testing import simulated_gpu

from ..attention.caches import filled_cache
from ..attention.cases import CachedCase
from ..attention.test_backward import check as check_attention_backward
from ..case import Case, as_tuple, check_case
from ..experts.test_gradients import test_experts_against_float64 as check_experts_backward
from .draws import BACKWARD, DRAWS

__all__ = ["Problem", "check", "check_on_gpu", "draw"]

_CONTIGUOUS = ("table", "weights")  # of rope and expert_mlp
_PACKED = ("w", "w_gate_up", "w_down", "weight", "teacher_weight")
_PACKS = ("linear", "grouped_gemm", "swiglu_mlp", "expert_mlp", "linear_cross_entropy",
          "linear_logprob", "linear_reverse_kl")  # fmt: skip
_FORMATS = {torch.float32: "f32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Problem:
    case: Case
    isa: str
    threads: int
    offset: bool  # tensors are parts of wider ones
    packed: bool  # so are weights

    def __str__(self) -> str:
        layout = ("parts of wider tensors, " if self.offset else "") + (
            "packed weights" if self.packed else "plain weights"
        )
        return f"{self.case} at {self.isa}, {self.threads} threads, {layout}"


def draw(op: str, number: int) -> Problem:
    """The same problem for the same op and number, on every machine with the same ISA levels."""
    rng = Random(f"{op} {number}")
    return Problem(
        case=DRAWS[op](rng),
        isa=rng.choice(_C.isa_levels()),
        threads=rng.randrange(1, 4),
        offset=rng.random() < 0.5,
        packed=op in _PACKS and rng.random() < 0.5,
    )


def check(op: str, problem: Problem) -> None:
    """Raises AssertionError where a result leaves its bound, or has other bits than the call on
    contiguous tensors, plain weights and one thread."""
    with _machine(problem.isa, problem.threads):
        if op == "attention backward":
            check_attention_backward(problem.case)
        elif op == "expert_mlp backward":
            check_experts_backward(problem.isa, problem.case)
        else:
            kept: list[tuple[Tensor, ...]] = []
            check_case(problem.case, lambda **args: _call(problem, kept, **args))
            torch.set_num_threads(1)
            plain = replace(problem, threads=1, offset=False, packed=False)
            with torch.no_grad():
                _call(plain, kept, **problem.case.make())
            for i, (got, want) in enumerate(zip(*kept, strict=True)):
                assert torch.allclose(got, want, rtol=0, atol=0, equal_nan=True), f"bits of {i}"


def check_on_gpu(op: str, problem: Problem, schedule: str) -> bool:
    """The same on the simulated GPU under all its checkers; whether the backend serves it."""
    if op in BACKWARD:
        return False
    plain = replace(problem, packed=False)

    def on_gpu(**args: object) -> object:
        with simulated_gpu(capability=(8, 0), schedule=schedule, metrics=False):
            return _call(plain, [], **args)

    try:
        check_case(problem.case, on_gpu)
    except UnsupportedError:
        return False
    return True


def _call(problem: Problem, kept: list[tuple[Tensor, ...]], **args: object) -> object:
    if problem.offset:
        args = {name: v if name in _CONTIGUOUS else _part(v) for name, v in args.items()}
    if problem.packed:
        for name in _PACKED:
            if isinstance(w := args.get(name), Tensor):
                args[name] = ops.pack(w, format=_FORMATS[w.dtype])
    if isinstance(problem.case, CachedCase):
        old = args["layer_cache"]
        args["layer_cache"] = filled_cache(old.keys, old.values, problem.case.window)
    outputs = getattr(ops, problem.case.op)(**args)
    kept.append(as_tuple(outputs))
    return outputs


def _part(value: object) -> object:
    """The same values where neither the address nor a row is a multiple of a vector."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.ndim > 1 and not value.is_floating_point():
        return value
    wide = value.new_zeros(*value.shape[:-1], value.shape[-1] + 3)[..., 1:-2]
    return wide.copy_(value)


@contextmanager
def _machine(isa: str, threads: int) -> Iterator[None]:
    before = _C.isa(), torch.get_num_threads()
    try:
        _C.set_isa(isa)
        torch.set_num_threads(threads)
        yield
    finally:
        _C.set_isa(before[0])
        torch.set_num_threads(before[1])
