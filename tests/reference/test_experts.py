"""Expert and dense SwiGLU layers against transformers' modules."""

import pytest
import torch
from transformers import MiMoV2FlashConfig
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as hub

from mimo_native import ShapeError, reference


def hub_experts(experts: int, dtype: torch.dtype) -> hub.MiMoV2FlashExperts:
    config = MiMoV2FlashConfig(
        hidden_size=24, moe_intermediate_size=10, n_routed_experts=experts, num_experts_per_tok=3
    )
    module = hub.MiMoV2FlashExperts(config).to(dtype)
    for parameter in module.parameters():
        parameter.data.normal_()
    return module


def some_ids(tokens: int, experts: int, slots: int) -> torch.Tensor:
    return torch.stack([torch.randperm(experts)[:slots] for _ in range(tokens)]).int()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_expert_mlp_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    module = hub_experts(16, dtype)
    x, weights = torch.randn(7, 24, dtype=dtype), torch.rand(7, 3, dtype=dtype)
    ids = some_ids(7, 16, 3)
    with torch.no_grad():
        want = module(x, ids.long(), weights)
        got = reference.expert_mlp(x, module.gate_up_proj, module.down_proj, ids, weights)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().max())


def test_one_hot_expert_takes_every_token_and_every_slot_counts() -> None:
    torch.manual_seed(1)
    x, gate_up, down = torch.randn(5, 6), torch.randn(3, 8, 6), torch.randn(3, 6, 4)
    ids, weights = torch.full((5, 2), 1, dtype=torch.int32), torch.rand(5, 2)
    alone = reference.swiglu_mlp(x, gate_up[1], down[1])
    got = reference.expert_mlp(x, gate_up, down, ids, weights)
    torch.testing.assert_close(got, alone * weights.sum(-1, keepdim=True))


def test_dense_mlp_equals_transformers() -> None:
    torch.manual_seed(2)
    config = MiMoV2FlashConfig(hidden_size=24, intermediate_size=40)
    module = hub.MiMoV2FlashMLP(config).double()
    x = 4 * torch.randn(3, 5, 24, dtype=torch.float64)
    gate_up = torch.cat((module.gate_proj.weight, module.up_proj.weight))
    got = reference.swiglu_mlp(x, gate_up, module.down_proj.weight)
    torch.testing.assert_close(got, module(x), rtol=1e-12, atol=1e-14)


def test_swiglu_is_not_clamped() -> None:
    gate_up = torch.tensor([[100.0, -100.0, 50.0, 3.0]])
    assert reference.swiglu(gate_up).tolist() == [[5000.0, pytest.approx(0.0, abs=1e-40)]]


def test_slots_are_added_in_order_in_float32() -> None:
    """2^24 + 1 + 1 is 2^24 when added in this order in float32, and 2^24 + 2 in any better one."""
    big = torch.tensor([2.0**24, 1.0, 1.0])
    gate_up = torch.tensor([[[40.0], [1.0]]] * 3)  # silu(40) * 1 = 40
    down = (big / 40).reshape(3, 1, 1)
    ids = torch.tensor([[0, 1, 2], [1, 2, 0]], dtype=torch.int32)
    x = torch.ones(2, 1)
    got = reference.expert_mlp(x, gate_up, down, ids, torch.ones(2, 3))
    assert got.flatten().tolist() == [2.0**24, 2.0**24 + 2]
    wide = (t.double() for t in (x, gate_up, down))
    exact = reference.expert_mlp(*wide, ids, torch.ones(2, 3).double())
    torch.testing.assert_close(exact, torch.full((2, 1), 2.0**24 + 2).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize(("tokens", "slots"), [(0, 3), (1, 1)])
def test_edges_of_the_number_of_tokens(tokens: int, slots: int) -> None:
    ids = torch.full((tokens, slots), 2)
    x, weights = torch.ones(tokens, 4), torch.ones(tokens, slots)
    y = reference.expert_mlp(x, torch.ones(3, 6, 4), torch.ones(3, 4, 3), ids, weights)
    assert y.shape == (tokens, 4)


def test_gradients() -> None:
    gen = torch.Generator().manual_seed(3)
    sizes = ((4, 3), (3, 4, 3), (3, 3, 2), (4, 2))
    x, gate_up, down, weights = (
        torch.randn(*s, generator=gen, dtype=torch.float64).requires_grad_() for s in sizes
    )
    ids = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0]])
    assert torch.autograd.gradcheck(
        lambda x, g, d, w: reference.expert_mlp(x, g, d, ids, w), (x, gate_up, down, weights)
    )
    assert torch.autograd.gradcheck(
        lambda x, g, d: reference.swiglu_mlp(x, g[0], d[0]), (x, gate_up, down)
    )


@pytest.mark.parametrize("bad", [-1, 3])
def test_ids_out_of_range_are_refused(bad: int) -> None:
    ids = torch.tensor([[0, bad]])
    with pytest.raises(ShapeError, match=r"ids: expected expert ids in \[0, 3\)"):
        reference.expert_mlp(
            torch.ones(1, 4), torch.ones(3, 6, 4), torch.ones(3, 4, 3), ids, torch.ones(1, 2)
        )


def test_sizes_that_do_not_fit_are_refused() -> None:
    x, gate_up, down = torch.ones(2, 4), torch.ones(3, 6, 4), torch.ones(3, 4, 3)
    ids, weights = torch.zeros(2, 2, dtype=torch.int32), torch.ones(2, 2)
    for bad, argument in [
        ((x[:, :3], gate_up, down, ids, weights), "w_gate_up"),
        ((x, gate_up, down[:2], ids, weights), "w_down"),
        ((x, gate_up, down, ids[:1], weights), "ids"),
        ((x, gate_up, down, ids, weights[:, :1]), "weights"),
    ]:
        with pytest.raises(ShapeError) as caught:
            reference.expert_mlp(*bad)
        assert caught.value.argument == argument
    with pytest.raises(ShapeError, match="even"):
        reference.swiglu(torch.ones(2, 3))
