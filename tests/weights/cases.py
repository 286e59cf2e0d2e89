"""Small models and their state dicts."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mimo_native import MiMoConfig
from mimo_native.weights import expected_tensors

SMALL = replace(
    MiMoConfig.tiny(),
    hidden_size=32,
    hybrid_layer_pattern=(0, 1, 1),
    moe_layer_freq=(0, 1, 1),
    n_routed_experts=4,
    num_experts_per_tok=2,
    num_mtp_layers=2,
)
LLAMA = MiMoConfig.from_dict(
    {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 36,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    }
)


def state_of(config: MiMoConfig, *, seed: int = 0, dtype=torch.bfloat16) -> dict[str, Tensor]:
    """Random values for every tensor of ``config``; the router in float32, as in releases."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(spec.shape, generator=generator).to(
            torch.float32 if spec.dtype_class == "float32" else dtype
        )
        for name, spec in expected_tensors(config).items()
    }


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of ``directory``, byte for byte."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
