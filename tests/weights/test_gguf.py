"""Reading well-formed GGUF files: values, names, order, configuration, memory."""

import gguf
import numpy as np
import pytest
import torch

from mimo_native.config import MiMoConfig
from mimo_native.weights.gguf import GGUFCheckpoint
from mimo_native.weights.gguf_file import GGUFFile
from mimo_native.weights.gguf_llama import hub_name, llama_config
from mimo_native.weights.gguf_quants import ENCODINGS, dequantize

from .gguf_files import QUANTS, Llama, gguf_name, hub_weights, to_gguf_order, write

READABLE = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
GEOMETRIES = [
    Llama(),
    Llama(heads=9, kv_heads=3, hidden=64, head_dim=32, tied=False),
    Llama(heads=4, kv_heads=1, hidden=64, head_dim=64),
    Llama(heads=2, kv_heads=2, hidden=128, head_dim=16, layers=1),
]


def oracle(weight: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    return gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("model", GEOMETRIES, ids=str)
def test_every_tensor_has_its_exact_value(tmp_path, model, kind):
    encoding = QUANTS[kind]
    weights = hub_weights(model)
    checkpoint = GGUFCheckpoint.open(
        write(tmp_path / "m.gguf", model, weights=weights, encoding=encoding)
    )
    read = dict(checkpoint.items(dtype=torch.float32))
    assert read.keys() == weights.keys()
    for name, weight in weights.items():
        want = oracle(weight, encoding) if weight.ndim > 1 else weight
        assert read[name].dtype == torch.float32
        # Rows are quantised one by one, so encoding and row order commute.
        np.testing.assert_array_equal(read[name].numpy(), want, err_msg=name)
        rounded = checkpoint.load(name, dtype=torch.bfloat16)
        assert torch.equal(rounded, torch.from_numpy(want.copy()).to(torch.bfloat16))


def test_query_and_key_rows_are_told_apart_from_the_stored_order(tmp_path):
    """The file really holds another order: without undoing it, q and k would differ."""
    model = Llama(heads=6, kv_heads=2)
    weights = hub_weights(model)
    path = write(tmp_path / "m.gguf", model, weights=weights)
    stored = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
    for part in ("q", "k"):
        name = f"model.layers.1.self_attn.{part}_proj.weight"
        np.testing.assert_array_equal(
            stored[gguf_name(name)], to_gguf_order(weights[name], model.head_dim)
        )
        assert not np.array_equal(stored[gguf_name(name)], weights[name])
    assert not np.array_equal(
        weights["model.layers.0.self_attn.q_proj.weight"],
        to_gguf_order(weights["model.layers.0.self_attn.q_proj.weight"], 2 * model.head_dim),
    )


def test_a_tensor_read_in_many_pieces_is_the_same(tmp_path, monkeypatch):
    model = Llama()
    weights = hub_weights(model)
    checkpoint = GGUFCheckpoint.open(
        write(tmp_path / "m.gguf", model, weights=weights, encoding=QUANTS.Q8_0)
    )
    whole = dict(checkpoint.items(dtype=torch.float32))
    # One head of q_proj at a time, and 5 rows of an MLP matrix, which do not divide its 64.
    monkeypatch.setattr("mimo_native.weights.gguf._CHUNK_VALUES", 5 * model.hidden)
    for name, tensor in checkpoint.items(dtype=torch.float32):
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_every_bit_pattern_of_a_block(kind):
    """All byte values as quants, and scales over the whole half-precision range."""
    encoding = next(e for e in ENCODINGS.values() if e.name == kind)
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, (4096, 3 * encoding.block_bytes), dtype=np.uint8)
    with np.errstate(invalid="ignore"):
        want = gguf.quants.dequantize(raw, QUANTS[kind])
    got = dequantize(torch.from_numpy(raw), encoding).numpy()
    np.testing.assert_array_equal(got, want)
    assert np.isnan(want).any()
    assert np.isfinite(want).mean() > 0.9


def test_sizes_of_all_encodings_agree_with_the_package():
    known = {int(code): size for code, size in gguf.GGML_QUANT_SIZES.items()}
    for code, encoding in ENCODINGS.items():
        assert (encoding.block_values, encoding.block_bytes) == known[code]
        assert QUANTS(code).name == encoding.name
    assert [e.name for e in ENCODINGS.values() if e.readable] == [
        "F32", "F16", "Q4_0", "Q4_1", "Q8_0", "BF16",
    ]  # fmt: skip


def test_config_fields(tmp_path):
    model = Llama(tied=False, layers=3)
    path = write(tmp_path / "m.gguf", model, extra={"llama.rope.freq_base": 5e5})
    config = GGUFCheckpoint.open(path).config
    expected = {
        "vocab_size": 40, "hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 64,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "v_head_dim": 32,
        "rope_theta": 5e5, "partial_rotary_factor": 1.0, "attention_value_scale": 1.0,
        "hybrid_layer_pattern": [0, 0, 0], "moe_layer_freq": [0, 0, 0],
        "tie_word_embeddings": False, "layernorm_epsilon": 1e-5, "max_position_embeddings": 256,
        "add_full_attention_sink_bias": False, "eos_token_id": 2, "bos_token_id": None,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    tied = GGUFCheckpoint.open(write(tmp_path / "t.gguf", Llama()))
    assert tied.config["tie_word_embeddings"] is True


@pytest.mark.parametrize("model", GEOMETRIES, ids=str)
def test_config_describes_a_llama(tmp_path, model):
    config = MiMoConfig.from_dict(GGUFCheckpoint.open(write(tmp_path / "m.gguf", model)).config)
    assert (config.num_hidden_layers, config.num_mtp_layers) == (model.layers, 0)
    assert config.tie_word_embeddings == model.tied
    for layer in map(config.layer, range(model.layers)):
        assert (layer.kind, layer.window_keys, layer.sink, layer.moe) == (
            "global",
            None,
            False,
            False,
        )
        assert (layer.num_q_heads, layer.num_kv_heads) == (model.heads, model.kv_heads)
        assert layer.rotary_dim == layer.head_dim == layer.v_head_dim == model.head_dim
        assert layer.value_scale == 1.0


def test_optional_keys_default_as_llama_cpp_has_them(tmp_path):
    """Without the keys: head size hidden / heads, as many key heads, base 10000."""
    model = Llama(heads=3, kv_heads=3, hidden=96, head_dim=32)
    path = write(tmp_path / "m.gguf", model)
    file = GGUFFile.read(path)
    dropped = ("key_length", "value_length", "head_count_kv", "freq_base", "dimension_count")
    lean = {k: v for k, v in file.metadata.items() if not k.endswith(dropped)}
    assert llama_config(GGUFFile(path, lean, file.tensors)) == llama_config(file)


def test_the_tensor_table_agrees_with_the_package(tmp_path):
    path = write(tmp_path / "m.gguf", Llama(hidden=256), encoding=QUANTS.Q4_0)
    file = GGUFFile.read(path)
    reader = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert file.tensors.keys() == reader.keys()
    for name, tensor in file.tensors.items():
        assert (tensor.nbytes, tensor.offset) == (reader[name].n_bytes, reader[name].data_offset)
        assert list(tensor.shape) == reader[name].shape.tolist()[::-1]
        assert hub_name(name) is not None


def test_metadata_of_every_type(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    values = {
        "a.u8": (writer.add_uint8, 200), "a.i8": (writer.add_int8, -100),
        "a.u16": (writer.add_uint16, 60000), "a.i16": (writer.add_int16, -30000),
        "a.u32": (writer.add_uint32, 2**32 - 1), "a.i32": (writer.add_int32, -(2**31)),
        "a.u64": (writer.add_uint64, 2**64 - 1), "a.i64": (writer.add_int64, -(2**63)),
        "a.f32": (writer.add_float32, 0.5), "a.f64": (writer.add_float64, 0.1),
        "a.bool": (writer.add_bool, True), "a.text": (writer.add_string, "naïve – 漢字 🙂"),
        "a.ints": (writer.add_array, [1, -2, 3]), "a.floats": (writer.add_array, [0.5, -2.0]),
        "a.texts": (writer.add_array, ["", "é", "x y"]),
        "a.bools": (writer.add_array, [True, False]),
    }  # fmt: skip
    for key, (add, value) in values.items():
        add(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = GGUFFile.read(tmp_path / "m.gguf").metadata
    assert {key: metadata[key] for key in values} == {key: v for key, (_, v) in values.items()}
    assert type(metadata["a.bool"]) is bool


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.17.ffn_down.weight", "model.layers.17.mlp.down_proj.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.0.attn_q.bias", None),
        ("blk.x.attn_q.weight", None),
        ("blk.²3.attn_q.weight", None),
        ("rope_freqs.weight", None),
    ],
)
def test_names(name, hub):
    assert hub_name(name) == hub
