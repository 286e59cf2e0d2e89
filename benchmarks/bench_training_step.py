"""Forward and backward of a small model beside the same weights in eager torch."""

from dataclasses import replace

import pytest
import torch
from tests.pretrain.models import micro_batch

import mimo_native as mn
from mimo_native.pretrain import Objective, Totals, Weights
from mimo_native.pretrain.estimate import forward_flops

from .peers.eager_model import eager_loss

# Six layers of width 256, one of them global and dense; 4 of 16 experts.
CONFIG = replace(
    mn.MiMoConfig.tiny(),
    vocab_size=4096,
    hidden_size=256,
    hybrid_layer_pattern=(0, 1, 1, 1, 1, 1),
    moe_layer_freq=(0, 1, 1, 1, 1, 1),
    num_attention_heads=8,
    num_key_value_heads=1,
    swa_num_attention_heads=8,
    swa_num_key_value_heads=2,
    head_dim=48,
    v_head_dim=32,
    swa_head_dim=48,
    swa_v_head_dim=32,
    intermediate_size=704,
    moe_intermediate_size=128,
    n_routed_experts=16,
    num_experts_per_tok=4,
    window_keys=129,
    num_mtp_layers=0,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1024, 4096])
def test_step(compare, dtype: torch.dtype, tokens: int) -> None:
    model = mn.MiMoForCausalLM(CONFIG).init_weights(std=0.05, seed=0).to(dtype)
    objective = Objective(model)
    ids = torch.randint(CONFIG.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0))
    batch = micro_batch([[ids.tolist()]])
    totals = Totals.of(Totals.count([batch], 0))

    def ours() -> torch.Tensor:
        with torch.enable_grad():
            loss = objective(batch, totals, Weights(0.0, 0.0)).loss
            loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    def theirs() -> torch.Tensor:
        with torch.enable_grad():
            loss = eager_loss(model, ids)
            loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    torch.testing.assert_close(ours(), theirs().float(), rtol=1e-2, atol=0)
    # Of matrix products and attention, forward and twice that backward.
    flops = 3 * forward_flops(CONFIG, tokens) * tokens
    compare(ours=ours, torch=theirs, flops=flops, bytes=0, dtype=dtype)
