"""What a llama-type GGUF says about its model: our config fields, tensor names, expected shapes.

A llama is a MiMo in which every layer is global, without sinks or experts, with full rotary
embedding and a value scale of 1. Hyperparameters that would change the mathematics are refused by
name, never skipped.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..config import MiMoConfig
from ..errors import CheckpointError, UnsupportedError
from .gguf_file import GGUFFile, Value
from .layout import expected_tensors

__all__ = ["check_shapes", "hub_name", "llama_config"]

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_READ = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
    "tensor_data_layout",  # informative: which tool wrote the source checkpoint
}
# Keys that change nothing at the given value and cannot be served at any other.
_NEUTRAL: dict[str, Value] = {
    "attention.causal": True,
    "attention.sliding_window": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.type": "none",
    "rope.scaling.factor": 1.0,
    "use_parallel_residual": False,
}


def hub_name(name: str) -> str | None:
    """The hub's name of a GGUF tensor, None if the model has no place for such a tensor.

    ``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``
    """
    if name in _TOP:
        return _TOP[name]
    block, _, rest = name.partition(".")
    index, _, tail = rest.partition(".")
    if block != "blk" or not index.isascii() or not index.isdigit() or tail not in _LAYER:
        return None
    return f"model.layers.{int(index)}.{_LAYER[tail]}"


class _Hyperparameters:
    """Typed access to the ``llama.*`` keys of one file."""

    def __init__(self, path: Path, metadata: Mapping[str, Value]) -> None:
        self.path, self.metadata = path, metadata

    def get(self, key: str, kind: type[int] | type[float], default: float | None = None) -> float:
        name = f"llama.{key}"
        value = self.metadata.get(name, default)
        if type(value) is not kind or not 0 < value < float("inf"):
            raise CheckpointError(
                str(self.path),
                name,
                expected=f"a positive {kind.__name__}",
                got=_brief(value),
                remedy="Per-layer values are not supported; otherwise convert the model again.",
            )
        return value


def _brief(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "nothing" if value is None else repr(value)[:80]


def llama_config(file: GGUFFile) -> dict[str, object]:
    """The fields of a released config.json that describe the model in ``file``.

    Raises UnsupportedError for another architecture or for hyperparameters that the model cannot
    honour, CheckpointError for missing or contradictory ones.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedError(
            str(file.path),
            [f"general.architecture is {_brief(architecture)}; only 'llama' is read"],
            remedy="Use the model's safetensors checkpoint.",
        )
    _refuse_unknown(file)
    number = _Hyperparameters(file.path, file.metadata)
    layers = _layer_count(file, int(number.get("block_count", int)))
    hidden = int(number.get("embedding_length", int))
    heads = int(number.get("attention.head_count", int))
    kv_heads = int(number.get("attention.head_count_kv", int, heads))
    head_dim = int(number.get("attention.key_length", int, hidden // heads))
    v_head_dim = int(number.get("attention.value_length", int, head_dim))
    rotary = int(number.get("rope.dimension_count", int, head_dim))
    _check_geometry(file.path, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary=rotary)
    theta = number.get("rope.freq_base", float, 10000.0)
    if "token_embd.weight" not in file.tensors:
        raise _contradiction(file.path, "token_embd.weight", "this tensor", "none")
    return {
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "hybrid_layer_pattern": [0] * layers,
        "num_attention_heads": heads,
        "swa_num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "swa_num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "swa_head_dim": head_dim,
        "v_head_dim": v_head_dim,
        "swa_v_head_dim": v_head_dim,
        "partial_rotary_factor": 1.0,
        "rope_theta": theta,
        "swa_rope_theta": theta,
        "max_position_embeddings": int(number.get("context_length", int)),
        "attention_value_scale": 1.0,
        "add_swa_attention_sink_bias": False,
        "add_full_attention_sink_bias": False,
        "moe_layer_freq": [0] * layers,
        "intermediate_size": int(number.get("feed_forward_length", int)),
        "layernorm_epsilon": _shortest(number.get("attention.layer_norm_rms_epsilon", float)),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "num_nextn_predict_layers": 0,
        **_token_ids(file.metadata),
    }


def _shortest(value: float) -> float:
    """The decimal that was meant by a float32: 9.999999747e-06 was 1e-05."""
    return float(str(np.float32(value)))


def _refuse_unknown(file: GGUFFile) -> None:
    reasons = []
    for name, value in file.metadata.items():
        key = name.removeprefix("llama.")
        if key == name or key in _READ:
            continue
        if key not in _NEUTRAL:
            reasons.append(f"{name} = {_brief(value)} is not understood")
        elif value != _NEUTRAL[key]:
            reasons.append(f"{name} = {_brief(value)}, only {_NEUTRAL[key]!r} can be served")
    reasons += [
        f"tensor {name} has no place in a llama-type model"
        for name in file.tensors
        if hub_name(name) is None
    ]
    if reasons:
        more = [f"and {len(reasons) - 8} more"] if len(reasons) > 8 else []
        raise UnsupportedError(
            str(file.path), reasons[:8] + more, remedy="Use a plain llama-type GGUF."
        )


def _layer_count(file: GGUFFile, stated: int) -> int:
    """``stated``, once it agrees with the tensors: a wild value must not size anything."""
    stored = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    if len(stored) != stated:
        got = f"tensors of {len(stored)} layers"
        raise _contradiction(file.path, "llama.block_count", f"{stated} layers", got)
    return stated


def _check_geometry(path: Path, *, heads: int, kv_heads: int, head_dim: int, rotary: int) -> None:
    if heads % kv_heads or head_dim % 2:
        raise CheckpointError(
            str(path),
            "llama.attention.head_count",
            expected="a multiple of head_count_kv, and an even head size",
            got=f"{heads} heads of {head_dim}, {kv_heads} key/value heads",
        )
    if rotary != head_dim:
        reason = f"llama.rope.dimension_count is {rotary}, only the head size {head_dim} is served"
        raise UnsupportedError(str(path), [reason])


def _token_ids(metadata: Mapping[str, Value]) -> dict[str, int | None]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {field: metadata.get(f"tokenizer.ggml.{key}_token_id") for field, key in keys.items()}
    return {field: value if type(value) is int else None for field, value in ids.items()}


def _contradiction(path: Path, name: str, expected: str, got: str) -> CheckpointError:
    remedy = "Metadata and tensors contradict each other; fetch or convert the file again."
    return CheckpointError(str(path), name, expected=expected, got=got, remedy=remedy)


def check_shapes(file: GGUFFile, config: Mapping[str, object]) -> None:
    """Raise CheckpointError unless ``file`` holds exactly the tensors that ``config`` describes."""
    try:
        specs = expected_tensors(MiMoConfig.from_dict(config))
    except CheckpointError as error:
        raise _contradiction(file.path, error.argument, error.expected, error.got) from error
    stored = {hub_name(name) or name: tensor.shape for name, tensor in file.tensors.items()}
    for name in [*specs, *(name for name in stored if name not in specs)]:
        want = f"shape {list(specs[name].shape)}" if name in specs else "no such tensor"
        got = f"shape {list(stored[name])}" if name in stored else "no such tensor"
        if want != got:
            raise _contradiction(file.path, name, want, got)
