"""Forward and backward of a small model beside the same weights in eager torch.

    mimo-native bench training_step --seconds 1.5
    python -m benchmarks.bench_training_step torch 4096 bfloat16     # peak memory of one step

Memory is measured in a process of its own for each, which this file starts.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.pretrain.models import micro_batch

import mimo_native as mn
from mimo_native.pretrain import Objective, Totals, Weights
from mimo_native.pretrain.estimate import forward_flops

from .peers.eager_model import eager_loss
from .resident import peak_growth

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


Step = Callable[[], torch.Tensor]


def _steps(tokens: int, dtype: torch.dtype) -> dict[str, Step]:
    """Loss and gradients of the same weights, each way: the gradients are dropped again."""
    model = mn.MiMoForCausalLM(CONFIG).init_weights(std=0.05, seed=0).to(dtype)
    objective = Objective(model)
    ids = torch.randint(CONFIG.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0))
    batch = micro_batch([[ids.tolist()]])
    totals = Totals.of(Totals.count([batch], 0))

    def step(loss_of: Step) -> torch.Tensor:
        with torch.enable_grad():
            loss = loss_of()
            loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return {
        "ours": lambda: step(lambda: objective(batch, totals, Weights(0.0, 0.0)).loss),
        "torch": lambda: step(lambda: eager_loss(model, ids)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1024, 4096])
def test_step(compare, bench_threads: int, dtype: torch.dtype, tokens: int) -> None:
    steps = _steps(tokens, dtype)
    torch.testing.assert_close(steps["ours"](), steps["torch"]().float(), rtol=1e-2, atol=0)
    compare(
        **steps,
        # Of matrix products and attention, forward and twice that backward.
        flops=3 * forward_flops(CONFIG, tokens) * tokens,
        bytes=0,
        dtype=dtype,
        memory=lambda: {who: _peak(who, tokens, dtype, bench_threads) for who in steps},
    )


def _peak(who: str, tokens: int, dtype: torch.dtype, threads: int) -> int:
    """Bytes beyond the weights, gradients included, in a process of its own."""
    name = str(dtype).removeprefix("torch.")
    command = [sys.executable, "-m", "benchmarks.bench_training_step", who, str(tokens), name]
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [*command, str(threads)], cwd=root, capture_output=True, text=True, check=True
    )
    return int(result.stdout)


def _main(who: str, tokens: str, dtype: str, threads: str = "1") -> None:
    torch.set_num_threads(int(threads))
    width = getattr(torch, dtype)
    _steps(128, width)[who]()  # what a first call allocates for good is no part of a step
    print(peak_growth(_steps(int(tokens), width)[who]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
