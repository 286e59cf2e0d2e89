"""``config.json`` as this package writes it: one file that every reader understands or refuses.

The hub's and transformers' fields stand side by side. ``model_type`` is chosen so that transformers
either builds this very model or says that it does not know it; it never builds another one.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import MiMoConfig

__all__ = ["render", "transformers_model_type"]

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mimo_v2_flash": "MiMoV2FlashForCausalLM",
    "mimo_v2": "MiMoV2ForCausalLM",
}


def transformers_model_type(config: "MiMoConfig") -> str:
    """The transformers model that is ``config``'s trunk; ``mimo_v2``, which it lacks, if none."""
    if _is_llama(config):
        return "llama"
    return "mimo_v2_flash" if _is_mimo_v2_flash(config) else "mimo_v2"


def _is_llama(c: "MiMoConfig") -> bool:
    return (
        not any(c.hybrid_layer_pattern)
        and not any(c.moe_layer_freq)
        and not c.add_full_attention_sink_bias
        and c.attention_value_scale == 1.0
        and c.partial_rotary_factor == c.swa_partial_rotary_factor == 1.0
        and c.v_head_dim == c.head_dim
        and c.hidden_size % c.num_attention_heads == 0
        and c.attention_projection_layout == "split"
    )


def _is_mimo_v2_flash(c: "MiMoConfig") -> bool:
    """Whether transformers' fixed rules hold: 2x kv heads and sinks exactly on sliding layers."""
    same = ("num_attention_heads", "head_dim", "v_head_dim")
    sliding_fits = (
        all(getattr(c, f"swa_{name}") == getattr(c, name) for name in same)
        and c.swa_num_key_value_heads == 2 * c.num_key_value_heads
        and c.add_swa_attention_sink_bias
    )
    return (
        (sliding_fits or not any(c.hybrid_layer_pattern))
        and not (c.add_full_attention_sink_bias and 0 in c.hybrid_layer_pattern)
        and c.attention_projection_layout == "split"
    )


def render(config: "MiMoConfig") -> dict[str, Any]:
    """See ``MiMoConfig.to_dict``."""
    c, model_type = config, transformers_model_type(config)
    eos = list(c.eos_token_id) if isinstance(c.eos_token_id, tuple) else c.eos_token_id
    d: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "num_hidden_layers": c.num_hidden_layers,
        "hybrid_layer_pattern": list(c.hybrid_layer_pattern),
        "moe_layer_freq": list(c.moe_layer_freq),
        "layer_types": _names(c.hybrid_layer_pattern, "full_attention", "sliding_attention"),
        "mlp_layer_types": _names(c.moe_layer_freq, "dense", "sparse"),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "n_shared_experts": None,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "layernorm_epsilon": c.rms_norm_eps,
        "num_nextn_predict_layers": c.num_mtp_layers,
        "mimo_native_window_keys": c.window_keys,
        "rope_parameters": _rope(c, flat=model_type == "llama"),
        "eos_token_id": eos,
        "use_cache": True,
    }
    if c.window_keys is not None:
        # transformers takes the first for all visible keys, unless it meets the second, the hub's.
        d |= {"sliding_window": c.window_keys, "sliding_window_size": c.window_keys - 1}
    d |= {name: getattr(c, name) for name in _SAME_NAME}
    if c.quantization is not None:
        q = c.quantization
        d["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": list(q.weight_block_size),
            "store_dtype": q.store_dtype,
            "mxfp4_block_size": q.mxfp4_block_size,
            "ignored_layers": list(q.ignored_layers),
        }
    return d


_SAME_NAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "v_head_dim",
    "swa_num_attention_heads",
    "swa_num_key_value_heads",
    "swa_head_dim",
    "swa_v_head_dim",
    "rope_theta",
    "swa_rope_theta",
    "partial_rotary_factor",
    "attention_value_scale",
    "add_swa_attention_sink_bias",
    "add_full_attention_sink_bias",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_group",
    "topk_group",
    "norm_topk_prob",
    "routed_scaling_factor",
    "moe_router_dtype",
    "rms_norm_eps",
    "tie_word_embeddings",
    "max_position_embeddings",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
    "torch_dtype",
    "attention_projection_layout",
)


def _names(flags: tuple[int, ...], zero: str, one: str) -> list[str]:
    return [one if flag else zero for flag in flags]


def _rope(c: "MiMoConfig", *, flat: bool) -> dict[str, Any]:
    def one(theta: float, factor: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": factor}

    full = one(c.rope_theta, c.partial_rotary_factor)
    sliding = one(c.swa_rope_theta, c.swa_partial_rotary_factor)
    # llama's reader takes one object for all layers; there only MTP blocks would use the other one.
    return full if flat else {"full_attention": full, "sliding_attention": sliding}
