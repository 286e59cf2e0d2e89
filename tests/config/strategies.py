"""Random valid configs, small enough to build."""

from dataclasses import replace

from hypothesis import strategies as st

from mimo_native import MiMoConfig
from mimo_native.config import QuantizationConfig

BITS = st.integers(0, 1)


@st.composite
def configs(draw: st.DrawFn) -> MiMoConfig:
    layers = draw(st.integers(1, 5))
    pattern = tuple(draw(st.lists(BITS, min_size=layers, max_size=layers)))
    moe = tuple(draw(st.lists(BITS, min_size=layers, max_size=layers)))
    mtp = draw(st.integers(0, 2))
    slides = any(pattern) or mtp > 0
    fields: dict = {}
    for swa in ("", "swa_"):
        kv_heads = draw(st.sampled_from([1, 2, 4]))
        fields[f"{swa}num_key_value_heads"] = kv_heads
        fields[f"{swa}num_attention_heads"] = kv_heads * draw(st.sampled_from([1, 2, 3]))
        fields[f"{swa}head_dim"] = draw(st.sampled_from([16, 24, 32]))
        fields[f"{swa}v_head_dim"] = draw(st.sampled_from([16, 32]))
        fields[f"{swa}rope_theta"] = draw(st.sampled_from([1e4, 5e6]))
        fields[f"{swa}partial_rotary_factor"] = draw(st.sampled_from([0.25, 0.334, 0.5, 1.0]))
        rotary = int(fields[f"{swa}head_dim"] * fields[f"{swa}partial_rotary_factor"])
        if rotary % 2:
            fields[f"{swa}partial_rotary_factor"] = 1.0
    if any(moe):
        fields |= {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        fields["n_group"] = draw(st.sampled_from([1, 2]))
        fields["moe_router_dtype"] = draw(st.sampled_from(["float32", "bfloat16"]))
        fields["routed_scaling_factor"] = draw(st.sampled_from([1.0, 2.5]))
        fields["norm_topk_prob"] = draw(st.booleans())
    quantization = st.none() | st.builds(
        QuantizationConfig,
        store_dtype=st.sampled_from(["fp8", "mxfp4"]),
        ignored_layers=st.just(("model.layers.0.self_attn.o_proj",)),
    )
    config = replace(
        MiMoConfig.from_dict(
            {
                "model_type": "llama",
                "vocab_size": 32,
                "hidden_size": 48,
                "intermediate_size": 40,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
            }
        ),
        hybrid_layer_pattern=pattern,
        moe_layer_freq=moe,
        num_mtp_layers=mtp,
        window_keys=draw(st.integers(1, 200)) if slides else None,
        add_swa_attention_sink_bias=draw(st.booleans()),
        add_full_attention_sink_bias=draw(st.booleans()),
        attention_value_scale=draw(st.sampled_from([1.0, 0.707])),
        rms_norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        tie_word_embeddings=draw(st.booleans()),
        eos_token_id=draw(st.sampled_from([None, 3, (3, 4)])),
        bos_token_id=draw(st.sampled_from([None, 0])),
        attention_projection_layout=draw(st.sampled_from(["split", "fused_qkv"])),
        quantization=draw(quantization),
        **fields,
    )
    return draw(st.sampled_from([config, like_flash(config), like_llama(config)]))


def like_flash(config: MiMoConfig) -> MiMoConfig:
    """``config`` with the sliding layers that transformers gives a MiMo-V2-Flash."""
    return replace(
        config,
        swa_num_attention_heads=2 * config.num_attention_heads,
        num_attention_heads=2 * config.num_attention_heads,
        swa_num_key_value_heads=2 * config.num_key_value_heads,
        swa_head_dim=config.head_dim,
        swa_v_head_dim=config.v_head_dim,
        swa_partial_rotary_factor=config.partial_rotary_factor,
        add_swa_attention_sink_bias=True,
        add_full_attention_sink_bias=False,
    )


def like_llama(config: MiMoConfig) -> MiMoConfig:
    return replace(
        config,
        hybrid_layer_pattern=(0,) * config.num_hidden_layers,
        moe_layer_freq=(0,) * config.num_hidden_layers,
        n_routed_experts=0,
        num_experts_per_tok=0,
        moe_intermediate_size=0,
        n_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        moe_router_dtype="float32",
        add_full_attention_sink_bias=False,
        attention_value_scale=1.0,
        partial_rotary_factor=1.0,
        swa_partial_rotary_factor=1.0,
        v_head_dim=config.head_dim,
    )
