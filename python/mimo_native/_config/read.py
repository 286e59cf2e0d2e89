"""The spellings of ``config.json``: the hub's own, that of transformers, and llama's.

One window size, two meanings: in the hub dialect ``sliding_window_size: 128`` is 128 keys before
the query (129 visible), in the transformers dialect ``sliding_window: 129`` counts the query. A
file is in the hub dialect as soon as it has a layer pattern or a window size of the hub's;
transformers then reads the window the same way.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import UnsupportedError
from .fields import Fields

__all__ = ["parse"]

_MODEL_TYPES = ("mimo_v2_flash", "mimo_v2", "llama")
_KINDS = {"full_attention": 0, "sliding_attention": 1}
_FFNS = {"dense": 0, "sparse": 1}
_BITS = {0: 0, 1: 1}

# transformers writes only what differs from its defaults.
_TRANSFORMERS_DEFAULTS: dict[str, Any] = {
    "vocab_size": 152576,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 192,
    "v_head_dim": 128,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "n_routed_experts": 256,
    "sliding_window": 129,
    "attention_value_scale": 0.707,
    "rope_theta": 5_000_000.0,
    "swa_rope_theta": 10_000.0,
    "partial_rotary_factor": 0.334,
    "bos_token_id": 1,
}
_LLAMA_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 1.0,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_CHOICES = {
    "hidden_act": ("silu",),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "attention_projection_layout": ("split", "fused_qkv"),
    "moe_router_dtype": ("float32", "bfloat16"),
}
# Parts of other models. Zero, false and null mean that a model does not have them.
_FOREIGN = (
    "attention_bias",
    "attention_dropout",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "mlp_bias",
    "n_shared_experts",
    "qk_layernorm",
    "use_qk_norm",
)


def parse(
    d: Mapping[str, Any], where: str, *, window_keys: int | None, num_mtp_layers: int | None
) -> dict[str, Any]:
    """The fields of ``MiMoConfig`` that ``d`` spells, ``quantization`` as a dict.

    Raises ``CheckpointError`` (naming ``where`` and the field) for missing, ill-typed or
    contradictory fields, ``UnsupportedError`` for a mode that the package does not have.
    """
    model_type = d.get("model_type") or ""  # an early release left it empty
    hub_names = ("hybrid_layer_pattern", "hybrid_block_size", "sliding_window_size")
    hub = any(d.get(name) is not None for name in hub_names)
    llama = model_type == "llama" and not hub
    defaults = {} if hub else _LLAMA_DEFAULTS if llama else _TRANSFORMERS_DEFAULTS
    f = Fields(d, where, defaults)
    _refuse(f, model_type)

    fields = _layers(f, llama=llama, hub=hub)
    mtp = f.get(int, "num_nextn_predict_layers", default=0)
    fields["num_mtp_layers"] = mtp if num_mtp_layers is None else num_mtp_layers
    slides = any(fields["hybrid_layer_pattern"]) or fields["num_mtp_layers"] > 0
    # transformers has no swa_* fields: its sliding layers double the kv heads and have a sink.
    doubles = not llama and not f.has("hybrid_layer_pattern")
    fields |= _heads(f, llama=llama, doubles=doubles, required=hub and slides and not doubles)
    fields |= _rope(f, required=hub and slides)
    fields["window_keys"] = (
        _window_keys(f, hub=hub, slides=slides) if window_keys is None else window_keys
    )
    fields["add_swa_attention_sink_bias"] = f.get(
        bool, "add_swa_attention_sink_bias", default=doubles
    )
    fields["add_full_attention_sink_bias"] = f.get(
        bool, "add_full_attention_sink_bias", default=False
    )
    scale = f.value(float, "attention_value_scale")
    if scale is None:  # an explicit null means none, also where transformers has a default
        absent = "attention_value_scale" not in d
        scale = f.defaults.get("attention_value_scale", 1.0) if absent else 1.0
    fields["attention_value_scale"] = scale
    fields |= _experts(f, any(fields["moe_layer_freq"]))
    fields |= _rest(f)
    fields["quantization"] = _quantization(f)
    return fields


def _refuse(f: Fields, model_type: Any) -> None:
    reasons = []
    if model_type not in ("", *_MODEL_TYPES):
        reasons.append(f"model_type {model_type!r} is unknown (known: {', '.join(_MODEL_TYPES)})")
    for name, choices in _CHOICES.items():
        if f.has(name) and f.d[name] not in choices:
            known = ", ".join(choices)
            reasons.append(f"{name} {f.d[name]!r} is unknown (known: {known})")
    reasons += [f"{name} {f.d[name]!r} (only off is)" for name in _FOREIGN if f.d.get(name)]
    for name in ("rope_scaling", "rope_parameters"):
        for spelled in _rope_objects(f, name):
            kind = spelled.get("rope_type", spelled.get("type", "default"))
            if kind not in (None, "default"):
                reasons.append(f"{name} of type {kind!r} is unknown (known: default)")
    if reasons:
        raise UnsupportedError(f.where, reasons)


def _rope_objects(f: Fields, name: str) -> list[Mapping[str, Any]]:
    """The object under ``name`` and the per-layer-type objects inside it."""
    outer = f.value(dict, name)
    if outer is None:
        return []
    inner = [f.typed(dict, f"{name}.{kind}", outer[kind]) for kind in _KINDS if outer.get(kind)]
    return [outer, *inner]


def _layers(f: Fields, *, llama: bool, hub: bool) -> dict[str, Any]:
    layers = f.get(int, "num_hidden_layers")
    if not 1 <= layers <= 10_000:
        raise f.fail("num_hidden_layers", "a number of layers", layers)
    patterns = {
        "hybrid_layer_pattern": f.flags("hybrid_layer_pattern", _BITS, layers),
        "layer_types": f.flags("layer_types", _KINDS, layers),
    }
    block = f.value(int, "hybrid_block_size")
    if block is not None and patterns["hybrid_layer_pattern"] is None:
        if block < 1:
            raise f.fail("hybrid_block_size", "an integer >= 1", block)
        patterns["hybrid_block_size"] = tuple(int((i + 1) % block > 0) for i in range(layers))
    freqs = {
        "moe_layer_freq": f.flags("moe_layer_freq", _BITS, layers),
        "mlp_layer_types": f.flags("mlp_layer_types", _FFNS, layers),
    }
    if llama:
        defaults = [{"default": (0,) * layers}] * 2
    elif hub:
        defaults = [{}, {}]
    else:
        alternate = tuple(int(i > 0 and (i + 1) % 6 > 0) for i in range(layers))
        defaults = [{"default": alternate}, {"default": (0,) + (1,) * (layers - 1)}]
    return {
        "hybrid_layer_pattern": f.agree(patterns, **defaults[0]),
        "moe_layer_freq": f.agree(freqs, **defaults[1]),
    }


def _heads(f: Fields, *, llama: bool, doubles: bool, required: bool) -> dict[str, Any]:
    heads = f.get(int, "num_attention_heads")
    derived: dict[str, Any] = {}
    if llama:
        derived = {"num_key_value_heads": heads}
        if heads > 0:
            derived["head_dim"] = f.get(int, "hidden_size") // heads
    out = {"num_attention_heads": heads}
    for name in ("num_key_value_heads", "head_dim"):
        default = {"default": derived[name]} if name in derived else {}
        out[name] = f.get(int, name, **default)
    default = {"default": out["head_dim"]} if llama else {}
    out["v_head_dim"] = f.get(int, "v_head_dim", **default)
    for name, value in list(out.items()):
        same = value * 2 if doubles and name == "num_key_value_heads" else value
        default = {} if required else {"default": same}
        out[f"swa_{name}"] = f.get(int, f"swa_{name}", **default)
    return out


def _window_keys(f: Fields, *, hub: bool, slides: bool) -> int | None:
    """Visible keys including the query's own (see the module's head)."""
    size = f.value(int, "sliding_window_size")
    if size is None and hub:
        size = f.value(int, "sliding_window")  # the hub's files give both the same number
    sources = {
        "mimo_native_window_keys": f.value(int, "mimo_native_window_keys"),
        "sliding_window_size + 1": None if size is None else size + 1,
    }
    if not hub and slides:
        sources["sliding_window"] = f.get(int, "sliding_window", default=None)
    return f.agree(sources, **({} if slides else {"default": None}))


def _rope(f: Fields, *, required: bool) -> dict[str, Any]:
    theta = _rope_sources(f, "rope_theta")
    factor = _rope_sources(f, "partial_rotary_factor")
    sliding = "rope_parameters.sliding_attention."

    own_theta = {"swa_rope_theta": f.value(float, "swa_rope_theta")}
    own_theta[f"{sliding}rope_theta"] = theta.pop(f"{sliding}rope_theta", None)
    own_factor = factor.pop(f"{sliding}partial_rotary_factor", None)
    out = {
        "rope_theta": f.agree(theta, **f.default("rope_theta")),
        "partial_rotary_factor": f.agree(factor, **f.default("partial_rotary_factor")),
    }
    fallback = {} if required else {"default": out["rope_theta"]}
    out["swa_rope_theta"] = f.agree(own_theta, **(f.default("swa_rope_theta") or fallback))
    if own_factor is None:
        shared = {name: v for name, v in factor.items() if "full_attention" not in name}
        fallback = f.default("partial_rotary_factor") or {"default": out["partial_rotary_factor"]}
        own_factor = f.agree(shared, **fallback)
    out["swa_partial_rotary_factor"] = own_factor
    return out


def _rope_sources(f: Fields, key: str) -> dict[str, float | None]:
    """Every place that may give ``key``: top level, rope object, its per-layer-type objects."""
    sources = {key: f.value(float, key)}
    for name in ("rope_parameters", "rope_scaling"):
        outer = f.value(dict, name) or {}
        for path, inner in [(name, outer)] + [(f"{name}.{k}", outer.get(k)) for k in _KINDS]:
            if inner and inner.get(key) is not None:
                path = f"{path}.{key}".replace("rope_scaling", "rope_parameters")
                sources[path] = f.typed(float, path, inner[key])
    return sources


def _experts(f: Fields, any_moe: bool) -> dict[str, Any]:
    if not any_moe:
        return {}
    return {
        "n_routed_experts": f.get(int, "n_routed_experts", "num_local_experts"),
        "num_experts_per_tok": f.get(int, "num_experts_per_tok"),
        "moe_intermediate_size": f.get(int, "moe_intermediate_size"),
        "n_group": f.get(int, "n_group", default=1),
        "topk_group": f.get(int, "topk_group", default=1),
        "norm_topk_prob": f.get(bool, "norm_topk_prob", default=True),
        "routed_scaling_factor": f.get(float, "routed_scaling_factor", default=1.0),
        "moe_router_dtype": f.get(str, "moe_router_dtype", default="float32"),
    }


def _rest(f: Fields) -> dict[str, Any]:
    out = {name: f.get(int, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    out["max_position_embeddings"] = f.get(int, "max_position_embeddings")
    out["rms_norm_eps"] = f.get(float, "layernorm_epsilon", "rms_norm_eps", default=1e-5)
    out["initializer_range"] = f.get(float, "initializer_range", default=0.02)
    out["tie_word_embeddings"] = f.get(bool, "tie_word_embeddings", default=False)
    out["torch_dtype"] = f.get(str, "dtype", "torch_dtype", default="bfloat16")
    out["attention_projection_layout"] = f.get(str, "attention_projection_layout", default="split")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        # Here null is a value: a model without that token.
        value = f.d[name] if name in f.d else f.defaults.get(name)
        out[name] = tuple(value) if isinstance(value, list) else value
    return out


def _quantization(f: Fields) -> dict[str, Any] | None:
    spelled = f.value(dict, "quantization_config")
    if spelled is None:
        return None
    q = Fields(spelled, f"{f.where}: quantization_config", {})
    known = {
        "quant_method": ("fp8",),
        "fmt": ("e4m3",),
        "activation_scheme": ("dynamic",),
        "store_dtype": ("fp8", "mxfp4"),
    }
    reasons = []
    for name, choices in known.items():
        value = q.value(str, name)
        if value not in choices and (value is not None or name == "quant_method"):
            reasons.append(f"{name} {value!r} is unknown (known: {', '.join(choices)})")
    if reasons:
        raise UnsupportedError(q.where, reasons)
    blocks = q.get(list, "weight_block_size", default=[128, 128])
    if blocks != [128, 128]:
        reason = f"weight_block_size {blocks} is unknown (known: [128, 128])"
        raise UnsupportedError(q.where, [reason])
    ignored = q.get(list, "ignored_layers", default=[])
    return {
        "store_dtype": q.get(str, "store_dtype", default="fp8"),
        "weight_block_size": tuple(blocks),
        "mxfp4_block_size": q.get(int, "mxfp4_block_size", default=32),
        "ignored_layers": tuple(q.typed(str, "ignored_layers", entry) for entry in ignored),
    }
