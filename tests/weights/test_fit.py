"""The numbers of ``fit`` against published ones, against files, and against arithmetic by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file

from mimo_native import CheckpointError, MiMoConfig, ShapeError
from mimo_native.cache import ModelCache
from mimo_native.weights import save_checkpoint
from mimo_native.weights.fit import fit

from ..config.cases import V2_5_PRO, V2_6_FLASH, V2_FLASH
from . import gguf_files
from .cases import LLAMA, SMALL, state_of


def test_the_release_from_its_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(V2_FLASH | {"num_nextn_predict_layers": 3}))
    report = fit(tmp_path, context=262_144, ram_bytes=400 * 10**9, bandwidth=1e12)
    main = sum(size for name, size in report.weight_bytes.items() if name != "mtp")
    assert main == pytest.approx(311.9e9, rel=2e-4)  # the size of its files
    assert sum(report.parameters.values()) == pytest.approx(309.77e9, rel=1e-4)
    assert report.global_kv_bytes_per_token == 23_040
    assert report.cache_bytes - report.ring_bytes == pytest.approx(5.63 * 2**30, rel=1e-3)
    assert report.ring_bytes == (39 + 3) * 8 * 320 * 2 * 128
    assert report.fits
    assert not fit(tmp_path, ram_bytes=300 * 10**9).fits
    # 15 B active parameters of about a byte, and the keys of 256k tokens.
    assert report.decode_weight_bytes == pytest.approx(17.2e9, rel=1e-2)
    assert report.tokens_per_second == pytest.approx(1e12 / report.decode_bytes)
    assert fit(tmp_path / "config.json").weight_bytes == report.weight_bytes


def test_experts_in_four_bits() -> None:
    report = fit(MiMoConfig.from_dict(V2_6_FLASH))
    experts = 47 * 256 * 3 * 2048 * 4096
    router = 47 * (256 * 4096 * 2 + 256 * 4)
    assert report.weight_bytes["experts"] == experts // 2 + experts // 32 + router
    assert fit(MiMoConfig.from_dict(V2_5_PRO)).parameters["experts"] > 1e12


@pytest.mark.parametrize("config", [SMALL, LLAMA, MiMoConfig.tiny()])
def test_a_directory_counts_what_its_files_hold(config: MiMoConfig, tmp_path: Path) -> None:
    state = state_of(config)
    save_checkpoint(state, config, tmp_path, max_shard_bytes=100_000)
    report = fit(tmp_path)
    assert sum(report.weight_bytes.values()) == sum(t.nbytes for t in state.values())
    assert report.parameters == fit(config).parameters
    assert report.weight_bytes == fit(config).weight_bytes
    assert sum(fit(tmp_path, dtype="float32").weight_bytes.values()) == sum(
        4 * t.numel() for t in state.values()
    )
    assert report.held_as == "stored"
    json.dumps(report.to_dict())
    assert str(report).startswith(str(tmp_path))


def test_quantised_files_are_counted_with_their_scales(tmp_path: Path) -> None:
    """They do not load, but what they would need can be told."""
    state = state_of(LLAMA)
    names = [name for name in state if "_proj.weight" in name and "o_proj" not in name]
    for name in names:
        state[name] = state[name].to(torch.float8_e4m3fn)
        state[f"{name}_scale_inv"] = torch.ones(1, 1)
    state["visual.patch.weight"] = torch.ones(5)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA.to_dict()))
    report = fit(tmp_path)
    assert report.unused_bytes == 20
    total = sum(tensor.nbytes for tensor in state.values())
    assert sum(report.weight_bytes.values()) == total - 20
    assert report.weight_bytes["dense"] == 2 * 3 * (48 * 36 + 4)
    assert fit(tmp_path, dtype="bfloat16").weight_bytes["dense"] == 2 * 3 * 48 * 36 * 2


def test_bytes_of_one_decoded_token() -> None:
    report = fit(SMALL, context=1000)
    specs = state_of(SMALL)
    read = 0.0
    for name, tensor in specs.items():
        if name.startswith("model.mtp."):
            continue  # plain decoding has no use for them
        if ".experts." in name:
            read += tensor.nbytes / 2  # 2 of 4 experts
        elif "embed_tokens" in name:
            read += tensor.nbytes / 256
        else:
            read += tensor.nbytes
    assert report.decode_weight_bytes == round(read)
    # One global layer with 1 kv head; two sliding ones with 2 kv heads and 8 keys before the query.
    assert report.decode_kv_bytes == 1000 * 1 * 40 * 2 + 2 * 8 * 2 * 40 * 2
    assert report.context == 1024
    assert report.cache_bytes == 1024 * 80 + (2 + 2) * 64 * 160
    assert fit(SMALL, context=3).decode_kv_bytes == 3 * 80 + 2 * 3 * 160


def test_a_tied_embedding_is_read_as_head() -> None:
    loose = replace(LLAMA, tie_word_embeddings=False)
    assert fit(LLAMA).decode_weight_bytes == fit(loose).decode_weight_bytes - 36 * 2
    assert "head" not in fit(LLAMA).weight_bytes


def test_batch_and_float32_caches() -> None:
    one, four = fit(SMALL), fit(SMALL, batch=4)
    assert four.cache_bytes == 4 * one.cache_bytes
    assert fit(SMALL, dtype="float32").cache_bytes == 2 * one.cache_bytes


@pytest.mark.parametrize(
    ("window_keys", "keys"), [(1, 64), (2, 64), (65, 64), (66, 128), (129, 128), (130, 192)]
)
def test_rings_are_whole_blocks(window_keys: int, keys: int) -> None:
    report = fit(replace(SMALL, window_keys=window_keys))
    assert report.ring_bytes == 4 * keys * 160


@pytest.mark.parametrize("encoding", [gguf_files.QUANTS.F32, gguf_files.QUANTS.Q4_0])
def test_gguf_files(encoding, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    gguf_files.write(file, gguf_files.Llama(), encoding=encoding)
    tensors = gguf.GGUFReader(file).tensors
    report = fit(file)
    assert sum(report.weight_bytes.values()) == sum(int(t.n_bytes) for t in tensors)
    assert sum(report.parameters.values()) == sum(int(t.n_elements) for t in tensors)
    assert report.global_kv_bytes_per_token == 2 * 2 * 64 * 2
    assert report.ring_bytes == 0
    loaded = fit(file, dtype="bfloat16").weight_bytes
    assert sum(loaded.values()) == 2 * sum(report.parameters.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "config",
    [
        MiMoConfig.tiny(),
        LLAMA,
        replace(SMALL, window_keys=1),
        replace(SMALL, window_keys=130, v_head_dim=17, swa_v_head_dim=9),
        replace(SMALL, head_dim=25, swa_head_dim=33, swa_partial_rotary_factor=0.25),
    ],
)
def test_caches_are_as_large_as_told(config: MiMoConfig, dtype: str) -> None:
    for context, batch in ((1, 1), (64, 3), (65, 2), (1000, 1)):
        cache = ModelCache.for_config(config, batch, context, dtype=getattr(torch, dtype))
        assert fit(config, dtype=dtype, context=context, batch=batch).cache_bytes == cache.nbytes


def test_memory_of_this_machine() -> None:
    ram = fit(LLAMA).ram_bytes
    assert ram > 0
    assert math.log2(ram) < 60


def test_arguments() -> None:
    for wrong in ({"context": 0}, {"batch": 0}, {"bandwidth": 0.0}, {"dtype": "int8"}):
        with pytest.raises(ShapeError, match=f"fit: {next(iter(wrong))}"):
            fit(LLAMA, **wrong)
    with pytest.raises(CheckpointError, match="/nowhere: file"):
        fit("/nowhere")
