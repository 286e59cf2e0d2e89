"""RMSNorm and RoPE kernels against float64, at every ISA level; bits and bad input."""

import pytest
import torch

import mimo_native as mn
from mimo_native import ops

from ..case import FLOATS, Case, check_case
from .cases import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(isa: str, case: Case) -> None:
    check_case(case, getattr(ops, case.op))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_row_has_the_same_bits_in_every_batch(isa: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 72, generator=generator).to(dtype)
    weight = torch.randn(72, generator=generator).to(dtype)
    whole = ops.rms_norm(x, weight)
    for start, stop in ((0, 1), (5, 22), (1990, 2000)):
        assert torch.equal(ops.rms_norm(x[start:stop], weight), whole[start:stop])


def test_rotation_keeps_length_and_depends_on_distance_only() -> None:
    q = torch.randn(1, 1, 64).expand(500, 1, 64)
    positions = torch.arange(500) + 1000
    table = ops.rope_table(positions, theta=1e4, rotary_dim=64)
    turned, _, _ = ops.rope(q, q, q, table)
    norms = turned.norm(dim=-1)
    torch.testing.assert_close(norms, q.norm(dim=-1), rtol=1e-5, atol=0)
    products = turned[:, 0] @ turned[:, 0].T
    for offset in (1, 17, 400):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=2e-3)


def test_angles_at_far_positions_follow_the_definition() -> None:
    positions = torch.tensor([0, 1, 65_535, 262_143])
    table = ops.rope_table(positions, theta=5e6, rotary_dim=64)
    exponent = torch.arange(0, 64, 2, dtype=torch.float32) / 64
    frequency = 1.0 / torch.pow(torch.tensor(5e6), exponent)
    angle = (positions.float()[:, None] * frequency).double()
    want = torch.cat([angle.cos(), angle.sin()], dim=1)
    assert (table.double() - want).abs().max() <= 2**-23


BAD = [
    ("rms_norm", lambda: ops.rms_norm(torch.randn(4, 8), torch.ones(7)), "weight"),
    ("rms_norm", lambda: ops.rms_norm(torch.randn(4, 8)[:, ::2], torch.ones(4)), "x"),
    ("rms_norm", lambda: ops.rms_norm(torch.randn(4, 8), torch.ones(8).bfloat16()), "weight"),
    ("rms_norm", lambda: ops.rms_norm(torch.randn(4, 8), torch.ones(8), eps=0.0), "eps"),
    ("rms_norm", lambda: ops.rms_norm(torch.randn(4, 8), torch.ones(8), eps=float("nan")), "eps"),
    ("rope_table", lambda: ops.rope_table(torch.ones(3).int(), theta=1e4, rotary_dim=4), "int32"),
    (
        "rope",
        lambda: ops.rope(
            *(torch.randn(3, 2, 8) for _ in range(3)),
            ops.rope_table(torch.arange(3), theta=1e4, rotary_dim=10),
        ),
        "table",
    ),
    (
        "rope",
        lambda: ops.rope(
            torch.randn(3, 2, 8),
            torch.randn(3, 2, 6),
            torch.randn(3, 2, 8),
            ops.rope_table(torch.arange(3), theta=1e4, rotary_dim=4),
        ),
        "k",
    ),
]


@pytest.mark.parametrize(("op", "call", "word"), BAD, ids=[f"{b[0]}-{b[2]}" for b in BAD])
def test_bad_input_is_refused_by_name(op: str, call, word: str) -> None:
    with pytest.raises((mn.ShapeError, mn.UnsupportedError), match=rf"{op}: .*{word}"):
        call()
