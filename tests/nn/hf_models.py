"""Tiny random models made by transformers, the independent implementation to compare with."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import MiMoV2FlashConfig, MiMoV2FlashForCausalLM

BASE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Variant:
    """One configuration: what differs from BASE, and the scale of its sinks."""

    name: str
    changes: tuple[tuple[str, object], ...]
    sink_std: float = 1.0
    prompt: int = 40

    def __str__(self) -> str:
        return self.name


def _variant(name: str, *, sink_std: float = 1.0, prompt: int = 40, **changes: object) -> Variant:
    return Variant(name, tuple(changes.items()), sink_std, prompt)


VARIANTS = [
    _variant("base"),
    _variant("two_layers", num_hidden_layers=2),
    _variant("wide_group", num_attention_heads=16, num_key_value_heads=1),
    _variant("window_1", sliding_window=1),
    _variant("window_33", sliding_window=33, prompt=80),
    _variant("window_129", sliding_window=129, num_hidden_layers=3, prompt=310),
    _variant("grouped_router", n_routed_experts=16, num_experts_per_tok=4, n_group=4, topk_group=2),
    _variant("unnormalised_scaled", norm_topk_prob=False, routed_scaling_factor=2.5),
    _variant("real_head_dims", head_dim=192, v_head_dim=128, num_hidden_layers=3),
    _variant("odd_sizes", hidden_size=72, moe_intermediate_size=40, intermediate_size=88),
    _variant("strong_sinks", sink_std=6.0),
    _variant("all_dense", mlp_layer_types=("dense",) * 4, num_hidden_layers=4),
]


@cache
def hf_model(variant: Variant) -> MiMoV2FlashForCausalLM:
    torch.manual_seed(0)
    changes = {k: list(v) if isinstance(v, tuple) else v for k, v in variant.changes}
    model = MiMoV2FlashForCausalLM(MiMoV2FlashConfig(**{**BASE, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                parameter.normal_(0, variant.sink_std)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.normal_(1, 0.1)
        for name, buffer in model.named_buffers():
            if "e_score" in name:
                buffer.normal_(0, 0.1)
    return model


@cache
def hf_directory(variant: Variant) -> Path:
    path = Path(mkdtemp(prefix="mimo_native_hf_"))
    hf_model(variant).save_pretrained(path)
    return path


def prompt_ids(variant: Variant, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 128, (batch, variant.prompt), generator=generator)
