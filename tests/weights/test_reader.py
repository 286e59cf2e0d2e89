"""Reading: what is there is read exactly; what is wrong is refused before anything is built."""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimo_native import CheckpointError, MiMoConfig, UnsupportedError
from mimo_native.weights import SafetensorsReader, save_checkpoint

from .cases import LLAMA, SMALL, assert_same, state_of

INDEX = "model.safetensors.index.json"


def read(path: Path, config: MiMoConfig) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in SafetensorsReader(path).stream(config)}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_checkpoint(state_of(SMALL), SMALL, tmp_path, max_shard_bytes=40_000)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shard_bytes", [10_000, 40_000, 10**9])
def test_all_that_was_saved_is_read(tmp_path: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    state = state_of(SMALL, dtype=dtype)
    save_checkpoint(state, SMALL, tmp_path, max_shard_bytes=shard_bytes)
    assert_same(read(tmp_path, SMALL), state)
    reader = SafetensorsReader(tmp_path)
    assert_same({name: reader.tensor(name) for name in reader.tensors}, state)


def test_mtp_blocks_are_counted_from_names(sharded: Path) -> None:
    config_file = sharded / "config.json"
    d = json.loads(config_file.read_text())
    del d["num_nextn_predict_layers"]
    config_file.write_text(json.dumps(d))
    assert MiMoConfig.from_pretrained(sharded).num_mtp_layers == 2
    # The file of its own counts even where the index does not list it.
    index = json.loads((sharded / INDEX).read_text())
    names = {n: f for n, f in index["weight_map"].items() if not n.startswith("model.mtp.")}
    (sharded / INDEX).write_text(json.dumps({"weight_map": names}))
    config = MiMoConfig.from_pretrained(sharded)
    assert config == SMALL
    assert_same(read(sharded, config), state_of(SMALL))
    (sharded / "model_mtp.safetensors").unlink()
    assert MiMoConfig.from_pretrained(sharded).num_mtp_layers == 0


def test_fewer_mtp_blocks_may_be_asked_for(sharded: Path) -> None:
    config = MiMoConfig.from_pretrained(sharded, num_mtp_layers=1)
    names = set(read(sharded, config))
    assert {n.split(".")[3] for n in names if n.startswith("model.mtp")} == {"0"}
    with pytest.raises(CheckpointError, match="ask for fewer MTP blocks"):
        read(sharded, replace(SMALL, num_mtp_layers=3))


def test_parts_of_omni_checkpoints_are_skipped(tmp_path: Path) -> None:
    state = state_of(LLAMA)
    extra = {
        "visual.blocks.0.attn.qkv.weight": torch.ones(4, dtype=torch.int8),
        "audio_encoder.layers.0.weight": torch.ones(2),
        "speech_embeddings.0.weight": torch.ones(2),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "lm_head.weight": torch.ones(64, 36),  # tied: the embedding is the head
    }
    save_file(state | extra, tmp_path / "model.safetensors")
    assert_same(read(tmp_path, LLAMA), state)


def test_fused_projections_come_apart_by_rank(tmp_path: Path) -> None:
    config = replace(
        SMALL,
        num_key_value_heads=2,
        swa_num_key_value_heads=4,
        attention_projection_layout="fused_qkv",
    )
    state = state_of(config.unquantized())
    fused: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".k_proj" in name or ".v_proj" in name:
            continue
        if ".q_proj" in name:
            # Rank r of 2 holds its half of the q heads, then of the k heads, then of the v heads.
            parts = [state[name.replace("q_proj", f"{x}_proj")].chunk(2) for x in "qkv"]
            name = name.replace("q_proj", "qkv_proj")
            tensor = torch.cat([part[rank] for rank in range(2) for part in parts])
        fused[name] = tensor
    save_file(fused, tmp_path / "model.safetensors")
    assert_same(read(tmp_path, config), state)
    with pytest.raises(CheckpointError, match="fused_qkv"):
        read(tmp_path, config.unquantized())


@pytest.mark.parametrize(
    ("edit", "error", "named"),
    [
        (
            {"model.layers.0.mlp.up_proj.weight": None},
            CheckpointError,
            "got no model.layers.0.mlp.up_proj.weight",
        ),
        (
            {"model.layers.0.self_attn.k_proj.weight": torch.ones(24, 36)},
            CheckpointError,
            r"k_proj.weight: expected shape \[12, 36\] from config.json, got \[24, 36\]",
        ),
        (
            {"model.layers.0.self_attn.q_norm.weight": torch.ones(12)},
            CheckpointError,
            "exactly those that config.json implies, got also model.layers.0.self_attn.q_norm",
        ),
        (
            {"model.layers.0.self_attn.attention_sink_bias": torch.ones(3)},
            CheckpointError,
            "add_swa_attention_sink_bias",
        ),
        (
            {"model.layers.0.mlp.up_proj.weight": torch.ones(48, 36).to(torch.float8_e4m3fn)},
            CheckpointError,
            r"up_proj\.weight_scale_inv: expected F32 \[row blocks, 1\], got no such tensor",
        ),
        (
            {"model.layers.0.mlp.up_proj.weight": torch.ones(48, 18, dtype=torch.uint8)},
            CheckpointError,
            r"up_proj\.weight_scale: expected U8 or F8_E8M0 \[48, 2\], got no such tensor",
        ),
        (
            {"model.layers.0.mlp.up_proj.weight": torch.ones(48, 36).to(torch.float8_e5m2)},
            UnsupportedError,
            r"8-bit float \(F8_E5M2.*up_proj.*convert the checkpoint",
        ),
        (
            {"model.layers.0.mlp.up_proj.qweight": torch.ones(4, 8, dtype=torch.int32)},
            UnsupportedError,
            "GPTQ",
        ),
    ],
)
def test_weights_against_config(tmp_path: Path, edit: dict, error: type, named: str) -> None:
    state = {name: t for name, t in (state_of(LLAMA) | edit).items() if t is not None}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(error, match=named):
        SafetensorsReader(tmp_path).stream(LLAMA)  # the call itself, before the first tensor


def test_missing_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-00002*"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}.*No such file.*Fetch"):
        SafetensorsReader(sharded)


@pytest.mark.parametrize(
    ("weight_map", "named"),
    [
        ({"lm_head.weight": "../model.safetensors"}, "a file name, got '../model.safetensors'"),
        ({"lm_head.weight": 3}, "a file name, got 3"),
        ({}, "weight_map: expected an object"),
        ([], "weight_map: expected an object"),
        ({"no.such.weight": "model_mtp.safetensors"}, "no.such.weight: expected in model_mtp"),
    ],
)
def test_damaged_index(sharded: Path, weight_map: object, named: str) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=named):
        SafetensorsReader(sharded)


def test_index_with_a_trailing_comma(sharded: Path) -> None:
    (sharded / INDEX).write_text('{"weight_map": {\n  "lm_head.weight": "a.safetensors",\n}}')
    with pytest.raises(CheckpointError, match=r"line 2, column 36.*comma before the closing"):
        SafetensorsReader(sharded)


def test_one_tensor_in_two_shards(sharded: Path) -> None:
    first, second = sorted(sharded.glob("model-0000*"))[:2]
    tensors = load_file(second)
    name = next(iter(load_file(first)))
    save_file(tensors | {name: torch.ones(2)}, second)
    with pytest.raises(CheckpointError, match=rf"{name}: expected one file that holds it"):
        SafetensorsReader(sharded)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        SafetensorsReader(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="Convert the weights to safetensors"):
        SafetensorsReader(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"Fetch model\.safetensors\.index\.json"):
        SafetensorsReader(tmp_path)


def write_raw(file: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("header", "data", "named"),
    [
        (b"{", b"", "a JSON header"),
        (b"[]", b"", "a JSON object as header"),
        (b'{"a": 1}', b"", "an object for a, got int"),
        ({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 1]}}, b"x", "known dtype for a"),
        ({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}, b"x", "shape and data"),
        ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}, b"x", "2 bytes for a"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}, b"xy", "a at byte"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"xy", "bytes, got"),
        (b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "a": 1}', b"", "a twice"),
    ],
)
def test_damaged_headers(tmp_path: Path, header: object, data: bytes, named: str) -> None:
    write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=named):
        SafetensorsReader(tmp_path)


def test_data_that_is_not_aligned(tmp_path: Path) -> None:
    wanted = torch.randn(5)
    header = {"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}
    for spaces in range(4):
        text = json.dumps(header).encode() + b" " * spaces
        write_raw(tmp_path / "model.safetensors", text, wanted.numpy().tobytes())
        found = SafetensorsReader(tmp_path).tensor("a")
        assert torch.equal(found, wanted)
        assert found.data_ptr() % 4 == 0


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours(tmp_path_factory, data: st.DataObject) -> None:
    """Cut, lengthen or scribble over a file anywhere: it reads, or says that it is damaged."""
    path = tmp_path_factory.mktemp("damaged")
    save_checkpoint(state_of(LLAMA), LLAMA, path)
    file = path / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    raw = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, min(len(raw), 4000) - 1))
    how = data.draw(st.sampled_from(["cut", "lengthen", "scribble"]))
    if how == "cut":
        del raw[at:]
    elif how == "lengthen":
        raw += b"\0" * (at + 1)
    else:
        scribble = data.draw(st.binary(min_size=1, max_size=9))
        raw[at : at + len(scribble)] = scribble
    file.write_bytes(raw)
    try:
        config = MiMoConfig.from_pretrained(path)
        read(path, config)
    except (CheckpointError, UnsupportedError):
        pass
    finally:
        shutil.rmtree(path)


def test_streaming_does_not_keep_the_file_in_memory(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")

    def resident_file_kib() -> int:
        return int(status.read_text().split("RssFile:")[1].split()[0])

    config = replace(LLAMA, vocab_size=16, intermediate_size=100_000)  # 6 tensors of 14 MB
    save_checkpoint(state_of(config, dtype=torch.float32), config, tmp_path)
    before, most = resident_file_kib(), 0
    for _, tensor in SafetensorsReader(tmp_path).stream(config):
        tensor.sum()
        most = max(most, resident_file_kib() - before)
    assert 13_000 < most < 20_000
