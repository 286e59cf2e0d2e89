"""Checkpoints go to transformers and come back without a changed bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MiMoV2FlashConfig,
    MiMoV2FlashForCausalLM,
)

from mimo_native import MiMoConfig
from mimo_native.weights import SafetensorsReader, save_checkpoint

SIZES = {"vocab_size": 64, "hidden_size": 48, "intermediate_size": 40, "head_dim": 24}
SIZES |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1}


def mimo() -> MiMoV2FlashForCausalLM:
    torch.manual_seed(0)
    config = MiMoV2FlashConfig(
        **SIZES,
        v_head_dim=16,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        sliding_window=5,
    )
    return MiMoV2FlashForCausalLM(config)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))


@pytest.mark.parametrize("make", [mimo, llama])
@pytest.mark.parametrize("max_shard", ["20KB", "1GB"])
def test_there_and_back(make, max_shard: str, tmp_path: Path) -> None:
    theirs = make().eval()
    with torch.no_grad():
        for name, value in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if "inv_freq" not in name:
                value.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard)
    config = MiMoConfig.from_pretrained(tmp_path / "theirs")
    reader = SafetensorsReader(tmp_path / "theirs")
    state = {name: tensor.clone() for name, tensor in reader.stream(config)}
    stored: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "theirs").glob("*.safetensors"):
        stored |= load_file(file)
    assert all(torch.equal(state[name], stored[name]) for name in stored | state)

    shard_bytes = 20_000 if max_shard == "20KB" else 10**9
    save_checkpoint(state, config, tmp_path / "ours", max_shard_bytes=shard_bytes)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(again) is type(theirs)
    ids = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)
