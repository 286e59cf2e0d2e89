"""RMSNorm and RoPE against transformers and against the definition of the angle."""

import math

import numpy as np
import pytest
import torch
from transformers import MiMoV2FlashConfig
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as hub

from mimo_native import ShapeError, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rms_norm_equals_transformers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = hub.MiMoV2FlashRMSNorm(70, eps=1e-5).to(dtype)
    norm.weight.data.normal_()
    x = torch.randn(2, 5, 70, dtype=dtype) * torch.logspace(-4, 3, 5, dtype=dtype)[:, None]
    got = reference.rms_norm(x, norm.weight, eps=1e-5)
    torch.testing.assert_close(got, norm(x), rtol=3e-7, atol=0)  # theirs computes in float32
    by_hand = x.numpy() / np.sqrt(
        (x.numpy().astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5
    )
    want = torch.from_numpy(by_hand * norm.weight.detach().double().numpy())
    torch.testing.assert_close(
        got.double(), want, rtol=1e-14 if dtype.itemsize == 8 else 3e-7, atol=0
    )


def test_rms_norm_rounds_once_to_bfloat16() -> None:
    x, weight = torch.randn(4, 33).bfloat16(), torch.randn(33).bfloat16()
    exact = reference.rms_norm(x.double(), weight.double())
    assert reference.rms_norm(x, weight).equal(exact.bfloat16())


def hub_rotary(theta: float, head_dim: int, factor: float) -> hub.MiMoV2FlashRotaryEmbedding:
    kind = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": factor}
    config = MiMoV2FlashConfig(
        head_dim=head_dim,
        num_hidden_layers=2,
        rope_parameters={"full_attention": kind, "sliding_attention": kind},
    )
    return hub.MiMoV2FlashRotaryEmbedding(config)


@pytest.mark.parametrize("theta", [1e4, 5e6, 1e7])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(192, 64), (24, 8), (48, 16), (96, 32)])
def test_rope_equals_transformers(theta: float, head_dim: int, rotary_dim: int) -> None:
    torch.manual_seed(1)
    positions = torch.tensor([0, 1, 2, 127, 128, 300, 4095, 100_003, 262_143])
    q, k = torch.randn(9, 4, head_dim), torch.randn(9, 2, head_dim)
    cos, sin = hub_rotary(theta, head_dim, 0.334)(q, positions[None], "full_attention")
    assert cos.shape[-1] == rotary_dim
    want_q, want_k = hub.apply_rotary_pos_emb(q, k, cos[0], sin[0], unsqueeze_dim=1)

    table = reference.rope_table(positions, theta=theta, rotary_dim=rotary_dim)
    assert table.dtype == torch.float32
    hub_table = torch.cat((cos[0, :, : rotary_dim // 2], sin[0, :, : rotary_dim // 2]), -1)
    # The angles agree to the bit, also far out, so only the rounding of cos and sin is left.
    torch.testing.assert_close(table, hub_table, rtol=0, atol=1.5e-7)
    v = torch.randn(9, 2, 7)
    got_q, got_k, got_v = reference.rope(q, k, v, table, value_scale=0.707)
    torch.testing.assert_close(got_q, want_q, rtol=0, atol=2e-6)
    torch.testing.assert_close(got_k, want_k, rtol=0, atol=2e-6)
    torch.testing.assert_close(got_v, v * 0.707)
    assert got_q[..., rotary_dim:].equal(q[..., rotary_dim:])


@pytest.mark.parametrize("theta", [1e4, 1.5e5, 5e6])
def test_the_angle_is_a_float32_product_of_float32_steps(theta: float) -> None:
    position, dim = 262_143, 64
    row = reference.rope_table(torch.tensor([position]), theta=theta, rotary_dim=dim)[0]
    for j in range(dim // 2):
        exponent = np.float32(2 * j) / np.float32(dim)
        frequency = np.float32(1) / np.float32(theta ** float(exponent))
        angle = float(np.float32(position) * frequency)
        assert row[j].item() == np.float32(math.cos(angle))
        assert row[dim // 2 + j].item() == np.float32(math.sin(angle))


def test_scores_depend_on_relative_position_only() -> None:
    torch.manual_seed(2)
    q, k, v = torch.randn(1, 1, 16).double(), torch.randn(1, 1, 16).double(), torch.zeros(1, 1, 1)

    def score(q_at: int, k_at: int) -> float:
        tables = [
            reference.rope_table(torch.tensor([at]), theta=1e4, rotary_dim=8) for at in (q_at, k_at)
        ]
        return (
            (reference.rope(q, k, v, tables[0])[0] * reference.rope(q, k, v, tables[1])[1])
            .sum()
            .item()
        )

    assert score(5, 3) == pytest.approx(score(105, 103), abs=2e-5)
    assert score(5, 3) != pytest.approx(score(5, 4), abs=1e-2)


def test_rope_is_a_rotation_and_has_a_gradient() -> None:
    gen = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, h, 6, generator=gen, dtype=torch.float64) for h in (2, 1, 1))
    table = reference.rope_table(torch.tensor([3, 70]), theta=100.0, rotary_dim=4)
    turned = reference.rope(q, k, v, table)[0]
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1), rtol=1e-6, atol=0)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    assert torch.autograd.gradcheck(
        lambda q, k, v: reference.rope(q, k, v, table, value_scale=0.707), inputs
    )
    x, weight = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((2, 5), (5,)))
    assert torch.autograd.gradcheck(
        reference.rms_norm, (x.requires_grad_(), weight.requires_grad_())
    )


def test_nothing_breaks_without_tokens() -> None:
    table = reference.rope_table(torch.empty(0, dtype=torch.int64), theta=1e4, rotary_dim=8)
    assert table.shape == (0, 8)
    q, k, v = torch.empty(0, 2, 16), torch.empty(0, 1, 16), torch.empty(0, 1, 4)
    assert [t.shape for t in reference.rope(q, k, v, table)] == [q.shape, k.shape, v.shape]
    assert reference.rms_norm(torch.empty(0, 5), torch.ones(5)).shape == (0, 5)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: reference.rms_norm(torch.ones(2, 3), torch.ones(4)), "weight"),
        (lambda: reference.rope_table(torch.arange(3), theta=1e4, rotary_dim=5), "rotary_dim"),
        (lambda: reference.rope_table(torch.arange(3), theta=0.0, rotary_dim=4), "theta"),
        (lambda: reference.rope_table(torch.zeros(1, 3), theta=1e4, rotary_dim=4), "positions"),
        (
            lambda: reference.rope(*(torch.ones(2, 1, 4),) * 3, torch.ones(2, 8)),
            "table",
        ),
        (
            lambda: reference.rope(*(torch.ones(2, 1, 4),) * 3, torch.ones(3, 4)),
            "table",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        call()
    assert caught.value.argument == argument
