"""torch.compile sees one node per op, also of views of a fused tensor."""

import pytest
import torch

from mimo_native.ops import rms_norm, rope, rope_table

OPS = torch.ops.mimo_native


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def tensors(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """q, k and v as views of one fused tensor."""
    return torch.randn(6, 5, 16).to(dtype).split((3, 1, 1), dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_eager(dtype: torch.dtype) -> None:
    q, k, v = tensors(dtype)
    weight = torch.randn(16)

    def call(q, k, v, positions):
        table = rope_table(positions, theta=1e4, rotary_dim=8)
        return rope(rms_norm(q.contiguous(), weight), k, v, table, value_scale=0.707)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    args = (q, k, v, torch.arange(6))
    for got, want in zip(compiled(*args), call(*args), strict=True):
        assert got.equal(want)


def test_opcheck() -> None:
    q, k, v = tensors(torch.bfloat16)
    positions = torch.arange(6)
    torch.library.opcheck(OPS.rms_norm.default, (q.contiguous(), torch.randn(16), 1e-5))
    torch.library.opcheck(OPS.rope_table.default, (positions, 1e4, 8))
    table = rope_table(positions, theta=1e4, rotary_dim=8)
    torch.library.opcheck(OPS.rope.default, (q, k, v, table, 0.5))
