"""The probes of the machine's limits: how they are asked; what they measure no test can know."""

import pytest

from mimo_native import _C
from mimo_native.errors import ShapeError


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_arithmetic(dtype):
    assert _C.probe_flops(dtype, 1) > 1e8


def test_bandwidth():
    assert _C.probe_bandwidth(1 << 20, 2) > 1e7


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: _C.probe_flops("f16", 1), "dtype"),
        (lambda: _C.probe_flops("f32", 0), "threads"),
        (lambda: _C.probe_bandwidth(100, 1), "bytes"),
        (lambda: _C.probe_bandwidth(1 << 20, -1), "threads"),
    ],
)
def test_wrong_arguments(call, argument):
    with pytest.raises(ShapeError, match=argument):
        call()
