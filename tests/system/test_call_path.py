"""How an eager call gets to its kernel: few steps, and outputs that the binding makes."""

import sys
from collections.abc import Callable

import pytest
import torch

import mimo_native as mn
from mimo_native import _C

ZERO = torch.zeros(1, dtype=torch.int64)
CALLS = {
    "rms_norm": lambda: mn.ops.rms_norm(torch.ones(1, 16), torch.ones(16)),
    "rope_table": lambda: mn.ops.rope_table(ZERO, theta=1e4, rotary_dim=8),
    "rope": lambda: mn.ops.rope(*(torch.ones(1, 2, 16),) * 3, torch.ones(1, 8)),
    "route": lambda: mn.ops.route(torch.ones(1, 16), top_k=2),
    "sample": lambda: mn.ops.sample(torch.ones(1, 16), seed=ZERO, position=ZERO),
}
# Functions that a call may enter, Python's and C's: the op, the choice of its backend and what the
# two ask torch. A step more costs 50 ns, an allocation in Python 600.
MOST_STEPS = 14


def steps(call: Callable[[], object]) -> list[str]:
    """Names of the functions that ``call`` enters after its first, cold run."""
    call()
    names: list[str] = []

    def note(frame, event: str, argument: object) -> None:
        if event == "call":
            names.append(frame.f_code.co_name)
        elif event == "c_call":
            names.append(argument.__name__)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    op = names.index("<lambda>")
    return names[op + 1 : -1]  # without the end of the profile


@pytest.mark.parametrize("op", CALLS)
def test_steps(op: str) -> None:
    names = [name for name in steps(CALLS[op]) if name != "ones"]
    assert op in names
    assert len(names) <= MOST_STEPS, names
    assert not [name for name in names if name.startswith(("empty", "new_", "zeros"))]


@pytest.mark.parametrize("rows", [0, 1, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_ordinary_tensors(rows: int, dtype: torch.dtype) -> None:
    """3000 rows of float32 lie on huge pages, which start at a multiple of 2 MiB."""
    x = torch.randn(rows, 1024).to(dtype)
    y = mn.ops.rms_norm(x, torch.ones(1024, dtype=dtype))
    assert type(y) is torch.Tensor
    assert (y.shape, y.dtype, y.device, y.stride()) == (x.shape, dtype, x.device, (1024, 1))
    assert y.data_ptr() % 64 == 0
    assert y.nbytes < 8 << 20 or y.data_ptr() % (2 << 20) == 0
    kept = y.clone()
    del x
    assert torch.equal(y[:] * 2, kept * 2)
    assert y.requires_grad_().is_leaf


def test_outputs_are_given_back() -> None:
    x, weight = torch.ones(4096, 1024), torch.ones(1024)
    held = [mn.ops.rms_norm(x, weight) for _ in range(2)]
    addresses = {
        mn.ops.rms_norm(x, weight).data_ptr() for _ in range(300)
    }  # 5 GB if they were kept
    assert len(addresses) < 150
    assert torch.equal(held[0], held[1])


@pytest.mark.parametrize("code", ["f32", "i32", "i64"])
def test_dtypes_of_several_outputs(code: str) -> None:
    ids, weights, counts, mean = _C.route(
        torch.zeros(2, 4), None, 2, "sigmoid", True, 1.0, 1, 1, None, True
    )
    got = {"i32": ids.dtype, "i64": counts.dtype, "f32": weights.dtype}
    assert got[code] is {"i32": torch.int32, "i64": torch.int64, "f32": torch.float32}[code]
    assert mean.shape == (4,)
