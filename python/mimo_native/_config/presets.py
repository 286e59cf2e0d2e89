"""The fields of the models that a config can be had of by name."""

from typing import Any

__all__ = ["MIMO_V2_FLASH", "TINY"]

MIMO_V2_FLASH: dict[str, Any] = {
    "vocab_size": 152576,
    "hidden_size": 4096,
    "hybrid_layer_pattern": (0, 1, 1, 1, 1) + (0, 1, 1, 1, 1, 1) * 7 + (0,),
    "moe_layer_freq": (0,) + (1,) * 47,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 8,
    "swa_head_dim": 192,
    "swa_v_head_dim": 128,
    "intermediate_size": 16384,
    "window_keys": 129,
    "rope_theta": 5_000_000.0,
    "swa_rope_theta": 10_000.0,
    "partial_rotary_factor": 0.334,
    "swa_partial_rotary_factor": 0.334,
    "attention_value_scale": 0.707,
    "add_swa_attention_sink_bias": True,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "num_mtp_layers": 3,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
}

TINY: dict[str, Any] = MIMO_V2_FLASH | {
    "vocab_size": 256,
    "hidden_size": 64,
    "hybrid_layer_pattern": (0, 1, 1, 1, 1, 0, 1),
    "moe_layer_freq": (0,) + (1,) * 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 16,
    "swa_num_attention_heads": 16,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 24,
    "swa_v_head_dim": 16,
    "intermediate_size": 128,
    "window_keys": 9,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
