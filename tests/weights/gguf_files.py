"""Small llama-type GGUF files, written by the `gguf` package the way llama.cpp's converter does."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gguf
import numpy as np

QUANTS = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Llama:
    """Sizes of a tiny model; query and key heads differ in number so that mixing them up shows."""

    layers: int = 2
    hidden: int = 96
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    inner: int = 64
    vocab: int = 40
    tied: bool = True


def hub_weights(model: Llama, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights under hub names, in hub row order."""
    rng = np.random.default_rng(seed)
    qk = model.head_dim
    shapes = {
        "model.embed_tokens.weight": (model.vocab, model.hidden),
        "model.norm.weight": (model.hidden,),
    }
    if not model.tied:
        shapes["lm_head.weight"] = (model.vocab, model.hidden)
    for layer in range(model.layers):
        p = f"model.layers.{layer}."
        shapes |= {
            p + "input_layernorm.weight": (model.hidden,),
            p + "self_attn.q_proj.weight": (model.heads * qk, model.hidden),
            p + "self_attn.k_proj.weight": (model.kv_heads * qk, model.hidden),
            p + "self_attn.v_proj.weight": (model.kv_heads * qk, model.hidden),
            p + "self_attn.o_proj.weight": (model.hidden, model.heads * qk),
            p + "post_attention_layernorm.weight": (model.hidden,),
            p + "mlp.gate_proj.weight": (model.inner, model.hidden),
            p + "mlp.up_proj.weight": (model.inner, model.hidden),
            p + "mlp.down_proj.weight": (model.hidden, model.inner),
        }
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def gguf_row(hub_row: int, head_dim: int) -> int:
    """Where llama.cpp's converter puts a row of q or k: pairs (i, i + D/2) side by side."""
    head, within = divmod(hub_row, head_dim)
    half, pair = divmod(within, head_dim // 2)
    return head * head_dim + 2 * pair + half


def to_gguf_order(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder q_proj or k_proj rows one by one."""
    out = np.empty_like(weight)
    for row in range(weight.shape[0]):
        out[gguf_row(row, head_dim)] = weight[row]
    return out


@lru_cache
def name_table() -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)


def gguf_name(hub: str) -> str:
    """The GGUF name of a hub tensor, by the `gguf` package's own table."""
    name = name_table().get_name(hub, try_suffixes=(".weight",))
    assert name is not None
    return name


def write(
    path: Path,
    model: Llama,
    *,
    weights: dict[str, np.ndarray] | None = None,
    encoding: gguf.GGMLQuantizationType = QUANTS.F32,
    extra: dict[str, int | float | str | bool] | None = None,
    arch: str = "llama",
) -> Path:
    """Write ``model``: matrices in ``encoding``, vectors in F32; ``extra`` sets further keys."""
    writer = gguf.GGUFWriter(path, arch)
    keys: dict[str, int | float | str | bool] = {
        "llama.block_count": model.layers,
        "llama.context_length": 256,
        "llama.embedding_length": model.hidden,
        "llama.feed_forward_length": model.inner,
        "llama.attention.head_count": model.heads,
        "llama.attention.head_count_kv": model.kv_heads,
        "llama.attention.key_length": model.head_dim,
        "llama.attention.value_length": model.head_dim,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": model.head_dim,
        "llama.vocab_size": model.vocab,
        "tokenizer.ggml.eos_token_id": 2,
    }
    add = {int: writer.add_uint32, float: writer.add_float32}
    add |= {str: writer.add_string, bool: writer.add_bool}
    for key, value in {**keys, **(extra or {})}.items():
        add[type(value)](key, value)
    for name, weight in (weights or hub_weights(model)).items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = to_gguf_order(weight, model.head_dim)
        kind = encoding if weight.ndim > 1 else QUANTS.F32
        data = gguf.quants.quantize(weight, kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
