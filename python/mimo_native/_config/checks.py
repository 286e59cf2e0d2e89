"""Which values a ``MiMoConfig`` may hold: every rule that makes a set of numbers a model."""

import math
from typing import TYPE_CHECKING, Any

from ..errors import ShapeError, UnsupportedError

if TYPE_CHECKING:
    from ..config import MiMoConfig

__all__ = ["check_config"]

_CHOICES = {
    "attention_projection_layout": ("split", "fused_qkv"),
    "moe_router_dtype": ("float32", "bfloat16"),
    "torch_dtype": ("bfloat16", "float32", "float16", "float64"),
}


def check_config(config: "MiMoConfig") -> None:
    """Raises ``ShapeError`` at the first broken rule, ``UnsupportedError`` for an unknown mode."""
    _check_layers(config)
    _check_attention(config, "")
    _check_attention(config, "swa_")
    if any(config.moe_layer_freq):
        _check_experts(config)
    _check_scalars(config)


def _need(holds: bool, argument: str, expected: str, got: Any, remedy: str = "") -> None:
    if not holds:
        raise ShapeError("MiMoConfig", argument, expected=expected, got=repr(got), remedy=remedy)


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _integer(config: "MiMoConfig", name: str, least: int = 1) -> None:
    value = getattr(config, name)
    _need(_is_int(value, least), name, f"an integer >= {least}", value)


def _check_layers(config: "MiMoConfig") -> None:
    pattern, freq = config.hybrid_layer_pattern, config.moe_layer_freq
    for name, flags in (("hybrid_layer_pattern", pattern), ("moe_layer_freq", freq)):
        _need(len(flags) > 0, name, "one entry per layer", flags)
        _need(all(_is_int(f, 0) and f <= 1 for f in flags), name, "entries 0 or 1", flags)
    _need(
        len(freq) == len(pattern), "moe_layer_freq", f"{len(pattern)} entries, one per layer", freq
    )
    _integer(config, "num_mtp_layers", 0)
    if any(pattern) or config.num_mtp_layers:
        remedy = "Sliding layers and MTP blocks need one."
        _need(
            _is_int(config.window_keys, 1),
            "window_keys",
            "an integer >= 1",
            config.window_keys,
            remedy,
        )
    else:
        _need(
            config.window_keys is None or _is_int(config.window_keys, 1),
            "window_keys",
            "None or an integer >= 1",
            config.window_keys,
        )


def _check_attention(config: "MiMoConfig", swa: str) -> None:
    names = [f"{swa}{name}" for name in ("num_attention_heads", "num_key_value_heads")]
    names += [f"{swa}head_dim", f"{swa}v_head_dim"]
    for name in names:
        _integer(config, name)
    heads, kv_heads, head_dim, _ = (getattr(config, name) for name in names)
    _need(heads % kv_heads == 0, names[1], f"a divisor of {names[0]} = {heads}", kv_heads)

    name = f"{swa}partial_rotary_factor"
    factor = getattr(config, name)
    _need(_is_number(factor) and 0 < factor <= 1, name, "a number in (0, 1]", factor)
    rotary = int(head_dim * factor)
    _need(
        rotary >= 2 and rotary % 2 == 0,
        name,
        f"int({head_dim} * factor) even and at least 2",
        f"{factor} -> {rotary}",
        "Rotated dimensions come in pairs.",
    )
    name = f"{swa}rope_theta"
    theta = getattr(config, name)
    _need(_is_number(theta) and theta > 0, name, "a finite number above 0", theta)


def _check_experts(config: "MiMoConfig") -> None:
    for name in ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"):
        _integer(config, name)
    for name in ("n_group", "topk_group"):
        _integer(config, name)
    experts, groups, kept = config.n_routed_experts, config.n_group, config.topk_group
    _need(experts % groups == 0, "n_group", f"a divisor of {experts} experts", groups)
    per_group = experts // groups
    # A group is scored by the sum of its two best experts.
    _need(groups == 1 or per_group >= 2, "n_group", "at least 2 experts in a group", groups)
    _need(kept <= groups, "topk_group", f"at most n_group = {groups}", kept)
    _need(
        config.num_experts_per_tok <= kept * per_group,
        "num_experts_per_tok",
        f"at most the {kept * per_group} experts of {kept} group(s)",
        config.num_experts_per_tok,
    )


def _check_scalars(config: "MiMoConfig") -> None:
    for name in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"):
        _integer(config, name)
    for name in ("rms_norm_eps", "initializer_range"):
        value = getattr(config, name)
        _need(_is_number(value) and value > 0, name, "a finite number above 0", value)
    for name in ("attention_value_scale", "routed_scaling_factor"):
        value = getattr(config, name)
        _need(_is_number(value) and value != 0, name, "a finite number other than 0", value)
    flags = ("add_swa_attention_sink_bias", "add_full_attention_sink_bias", "norm_topk_prob")
    for name in (*flags, "tie_word_embeddings"):
        value = getattr(config, name)
        _need(isinstance(value, bool), name, "true or false", value)
    for name in ("bos_token_id", "pad_token_id"):
        value = getattr(config, name)
        _need(value is None or _is_int(value, 0), name, "a token id or nothing", value)
    eos = config.eos_token_id
    one_or_many = eos if isinstance(eos, tuple) else () if eos is None else (eos,)
    _need(all(_is_int(e, 0) for e in one_or_many), "eos_token_id", "token ids", eos)
    for name, choices in _CHOICES.items():
        value = getattr(config, name)
        if value not in choices:
            reason = f"{name} {value!r} is unknown (known: {', '.join(choices)})"
            raise UnsupportedError("MiMoConfig", [reason])
