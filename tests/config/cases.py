"""``config.json`` of the family's releases, as data."""

from typing import Any

FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "ignored_layers": [
        *(f"model.layers.{i}.self_attn.o_proj" for i in range(48)),
        "model.decoder.self_attn.o_proj",
    ],
}

V2_FLASH: dict[str, Any] = {
    "architectures": ["MiMoV2FlashForCausalLM"],
    "model_type": "mimo_v2_flash",
    "vocab_size": 152576,
    "hidden_size": 4096,
    "num_hidden_layers": 48,
    "hybrid_layer_pattern": [0, 1, 1, 1, 1] + [0, 1, 1, 1, 1, 1] * 7 + [0],
    "hybrid_block_size": None,
    "num_attention_heads": 64,
    "swa_num_attention_heads": 64,
    "num_key_value_heads": 4,
    "swa_num_key_value_heads": 8,
    "head_dim": 192,
    "swa_head_dim": 192,
    "v_head_dim": 128,
    "swa_v_head_dim": 128,
    "partial_rotary_factor": 0.334,
    "rope_theta": 5000000,
    "swa_rope_theta": 10000,
    "rope_scaling": None,
    "max_position_embeddings": 262144,
    "attention_value_scale": 0.707,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": 128,
    "sliding_window_size": 128,
    "attention_chunk_size": 128,
    "moe_layer_freq": [0] + [1] * 47,
    "intermediate_size": 16384,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": None,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": None,
    "layernorm_epsilon": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
    "bos_token_id": None,
    "torch_dtype": "bfloat16",
    "quantization_config": FP8,
}

OMNI = {
    "vision_config": {"model_type": "mimo_v2_vision", "hidden_size": 1280},
    "audio_config": {"model_type": "mimo_v2_audio"},
    "processor_config": {},
    "image_token_id": 151655,
    "audio_token_id": 151669,
}

V2_5: dict[str, Any] = {
    **V2_FLASH,
    **OMNI,
    "architectures": ["MiMoV2ForCausalLM"],
    "model_type": "mimo_v2",
    "rope_theta": 10000000,
    "rope_scaling": {"rope_type": "default"},
    "rope_parameters": {
        "rope_type": "default",
        "type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.334,
    },
    "max_position_embeddings": 1048576,
    "attention_projection_layout": "fused_qkv",
    "quantization_config": {**FP8, "store_dtype": "fp8"},
}

_PRO_GLOBAL = (0, 7, 15, 23, 31, 39, 47, 55, 62, 69)
V2_5_PRO: dict[str, Any] = {
    **V2_5,
    "hidden_size": 6144,
    "num_hidden_layers": 70,
    "hybrid_layer_pattern": [int(i not in _PRO_GLOBAL) for i in range(70)],
    "moe_layer_freq": [0] + [1] * 69,
    "num_attention_heads": 128,
    "swa_num_attention_heads": 128,
    "num_key_value_heads": 8,
    "swa_num_key_value_heads": 8,
    "n_routed_experts": 384,
    "attention_value_scale": 0.612,
}

V2_6_FLASH: dict[str, Any] = {
    **V2_5,
    "layernorm_epsilon": 1e-6,
    "moe_router_dtype": "bfloat16",
    "num_nextn_predict_layers": 3,
    "quantization_config": {**FP8, "store_dtype": "mxfp4", "mxfp4_block_size": 32},
}

V2_6_PRO: dict[str, Any] = {
    **V2_5_PRO,
    "moe_router_dtype": "bfloat16",
    "num_nextn_predict_layers": 3,
    "quantization_config": V2_6_FLASH["quantization_config"],
}

SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rope_theta": 100000,
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}

RELEASES = {
    "V2-Flash": V2_FLASH,
    "V2.5": V2_5,
    "V2.5-Pro": V2_5_PRO,
    "V2.6-Flash": V2_6_FLASH,
    "V2.6-Pro": V2_6_PRO,
    "SmolLM2": SMOLLM2,
}
