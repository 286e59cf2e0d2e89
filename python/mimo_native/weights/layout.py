"""Which tensors a model consists of, under the names of the released checkpoints."""

from typing import Literal, NamedTuple

from ..config import LayerConfig, MiMoConfig

__all__ = ["TensorSpec", "expected_tensors"]

Component = Literal["embedding", "head", "attention", "dense", "experts", "norms", "mtp"]


class TensorSpec(NamedTuple):
    """What a checkpoint must hold under one name. Linear weights are [out, in]."""

    shape: tuple[int, ...]
    # "float32": the router, which never leaves it; "linear": what releases quantise; else "float".
    dtype_class: Literal["float32", "linear", "float"]
    component: Component


def expected_tensors(config: MiMoConfig) -> dict[str, TensorSpec]:
    """Every tensor of ``config``'s model: name -> (shape, dtype class, component), in model order.

    Names and shapes follow ``config.attention_projection_layout``; MTP blocks come last. A tied
    head has no tensor of its own.
    """
    specs: dict[str, TensorSpec] = {}
    hidden, vocab = config.hidden_size, config.vocab_size
    specs["model.embed_tokens.weight"] = TensorSpec((vocab, hidden), "float", "embedding")
    for i in range(config.num_hidden_layers):
        layer, prefix = config.layer(i), f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            specs[f"{prefix}{norm}.weight"] = TensorSpec((hidden,), "float", "norms")
        specs |= _attention(config, layer, prefix, "attention")
        if layer.moe:
            specs |= _experts(config, prefix)
        else:
            specs |= _mlp(hidden, layer.intermediate_size, f"{prefix}mlp.", "dense")
    specs["model.norm.weight"] = TensorSpec((hidden,), "float", "norms")
    if not config.tie_word_embeddings:
        specs["lm_head.weight"] = TensorSpec((vocab, hidden), "float", "head")
    for k in range(config.num_mtp_layers):
        specs |= _mtp_block(config, f"model.mtp.layers.{k}.")
    return specs


def _attention(
    config: MiMoConfig, layer: LayerConfig, prefix: str, component: Component
) -> dict[str, TensorSpec]:
    attn, hidden = f"{prefix}self_attn.", config.hidden_size
    rows = {
        "q_proj": layer.num_q_heads * layer.head_dim,
        "k_proj": layer.num_kv_heads * layer.head_dim,
        "v_proj": layer.num_kv_heads * layer.v_head_dim,
    }
    if config.attention_projection_layout == "fused_qkv":
        rows = {"qkv_proj": sum(rows.values())}
    specs = {
        f"{attn}{name}.weight": TensorSpec((n, hidden), "linear", component)
        for name, n in rows.items()
    }
    wide = layer.num_q_heads * layer.v_head_dim
    specs[f"{attn}o_proj.weight"] = TensorSpec((hidden, wide), "float", component)
    if layer.sink:
        heads = (layer.num_q_heads,)
        specs[f"{attn}attention_sink_bias"] = TensorSpec(heads, "float", component)
    return specs


def _mlp(hidden: int, width: int, prefix: str, component: Component) -> dict[str, TensorSpec]:
    return {
        f"{prefix}gate_proj.weight": TensorSpec((width, hidden), "linear", component),
        f"{prefix}up_proj.weight": TensorSpec((width, hidden), "linear", component),
        f"{prefix}down_proj.weight": TensorSpec((hidden, width), "linear", component),
    }


def _experts(config: MiMoConfig, prefix: str) -> dict[str, TensorSpec]:
    experts, hidden = config.n_routed_experts, config.hidden_size
    gate = f"{prefix}mlp.gate."
    specs = {
        f"{gate}weight": TensorSpec((experts, hidden), "float32", "experts"),
        f"{gate}e_score_correction_bias": TensorSpec((experts,), "float32", "experts"),
    }
    for e in range(experts):
        specs |= _mlp(hidden, config.moe_intermediate_size, f"{prefix}mlp.experts.{e}.", "experts")
    return specs


def _mtp_block(config: MiMoConfig, prefix: str) -> dict[str, TensorSpec]:
    layer, hidden = config.mtp_layer(), config.hidden_size
    norms = ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm")
    specs = {f"{prefix}{norm}.weight": TensorSpec((hidden,), "float", "mtp") for norm in norms}
    specs[f"{prefix}eh_proj.weight"] = TensorSpec((hidden, 2 * hidden), "float", "mtp")
    specs |= _attention(config, layer, prefix, "mtp")
    specs |= _mlp(hidden, layer.intermediate_size, f"{prefix}mlp.", "mtp")
    return specs
