"""Writing: others read it, and a write that fails changes nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mimo_native import CheckpointError, MiMoConfig
from mimo_native.weights import SafetensorsReader, save_checkpoint, writer

from .cases import LLAMA, SMALL, assert_same, contents, state_of


def read(path: Path) -> dict[str, torch.Tensor]:
    config = MiMoConfig.from_pretrained(path)
    return {name: tensor.clone() for name, tensor in SafetensorsReader(path).stream(config)}


def test_shards(tmp_path: Path) -> None:
    state = state_of(SMALL)
    save_checkpoint(state, SMALL, tmp_path, max_shard_bytes=40_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(state)
    shards = sorted(set(index["weight_map"].values()) - {"model_mtp.safetensors"})
    count = len(shards)
    assert shards == [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for shard in [*shards, "model_mtp.safetensors"]:
        names = {name for name, file in index["weight_map"].items() if file == shard}
        with safe_open(tmp_path / shard, framework="pt") as file:
            assert set(file.keys()) == names
            assert file.metadata() == {"format": "pt"}
        tensors = load_file(tmp_path / shard)
        assert_same(tensors, {name: state[name] for name in names})
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert len(names) == 1 or size <= 40_000 or shard == "model_mtp.safetensors"
    main = [tensor for name, tensor in state.items() if not name.startswith("model.mtp.")]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in main)
    mtp = {name for name, file in index["weight_map"].items() if file == "model_mtp.safetensors"}
    assert mtp == {name for name in state if name.startswith("model.mtp.")}


@pytest.mark.parametrize("window_keys", [1, 127, 128, 129])
def test_the_window_survives(window_keys: int, tmp_path: Path) -> None:
    config = replace(SMALL, window_keys=window_keys)
    save_checkpoint(state_of(config), config, tmp_path)
    assert MiMoConfig.from_pretrained(tmp_path) == config


def test_a_stream_is_as_good_as_a_state_dict(tmp_path: Path) -> None:
    state = state_of(SMALL)
    save_checkpoint(state, SMALL, tmp_path / "a", max_shard_bytes=40_000)
    save_checkpoint(iter(state.items()), SMALL, tmp_path / "b", max_shard_bytes=40_000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    reader = SafetensorsReader(tmp_path / "a")
    save_checkpoint(reader.stream(SMALL), SMALL, tmp_path / "c", max_shard_bytes=40_000)
    assert_same(read(tmp_path / "c"), state)


def test_views_and_shared_tensors(tmp_path: Path) -> None:
    state = state_of(LLAMA)
    q, k = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
    fused = torch.cat([state[q], state[k]])
    state[q], state[k] = fused[:36], fused[36:]
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    state[down] = state[up].t()
    state["model.layers.1.mlp.up_proj.weight"] = state[up]
    wanted = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]  # tied
    save_checkpoint(state, LLAMA, tmp_path)
    assert_same(read(tmp_path), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_config_says_what_dtype_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    save_checkpoint(state_of(SMALL, dtype=dtype), SMALL, tmp_path)
    saved = MiMoConfig.from_pretrained(tmp_path)
    assert saved == replace(SMALL, torch_dtype=str(dtype)[6:])


def test_quantised_and_fused_configs_are_written_as_what_they_become(tmp_path: Path) -> None:
    config = replace(SMALL, attention_projection_layout="fused_qkv")
    save_checkpoint(state_of(SMALL), config, tmp_path)
    assert MiMoConfig.from_pretrained(tmp_path) == SMALL


@pytest.mark.parametrize(
    ("first", "second"), [(40_000, 10**9), (10**9, 40_000), (40_000, 60_000), (10**9, 10**9)]
)
def test_saving_over_another_checkpoint(tmp_path: Path, first: int, second: int) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save_checkpoint(state_of(SMALL), SMALL, tmp_path, max_shard_bytes=first)
    plain = replace(SMALL, num_mtp_layers=0)
    new = state_of(plain, seed=1)
    save_checkpoint(new, plain, tmp_path, max_shard_bytes=second)
    assert_same(read(tmp_path), new)
    assert MiMoConfig.from_pretrained(tmp_path) == plain
    (tmp_path / "tokenizer.json").unlink()
    save_checkpoint(new, plain, tmp_path / "fresh", max_shard_bytes=second)
    left = {name: raw for name, raw in contents(tmp_path).items() if "/" not in name}
    assert left == contents(tmp_path / "fresh")  # nothing of the first is left


def broken(state: dict, name: str, how: str):
    for key, tensor in state.items():
        if key != name:
            yield key, tensor
        elif how == "raises":
            raise KeyboardInterrupt
        elif how == "misshapen":
            yield key, tensor[:-1]
        elif how == "integers":
            yield key, tensor.to(torch.int32)
        elif how == "twice":
            yield from [(key, tensor)] * 2
        elif how == "renamed":
            yield "model.other.weight", tensor


@pytest.mark.parametrize("how", ["raises", "misshapen", "integers", "twice", "renamed", "missing"])
def test_a_wrong_state_changes_nothing(tmp_path: Path, how: str) -> None:
    save_checkpoint(state_of(SMALL), SMALL, tmp_path, max_shard_bytes=40_000)
    before = contents(tmp_path)
    stream = broken(state_of(SMALL, seed=1), "model.layers.2.mlp.gate.weight", how)
    error = KeyboardInterrupt if how == "raises" else CheckpointError
    with pytest.raises(error):
        save_checkpoint(stream, SMALL, tmp_path, max_shard_bytes=40_000)
    assert contents(tmp_path) == before
    with pytest.raises(CheckpointError, match="expected"):
        save_checkpoint({}, SMALL, tmp_path / "new" / "deep")
    assert not (tmp_path / "new" / "deep").exists()


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nth write or rename fails, for every n there is."""
    save_checkpoint(state_of(SMALL), SMALL, tmp_path, max_shard_bytes=60_000)
    before, new = contents(tmp_path), state_of(SMALL, seed=1)
    left = 0

    def failing(real):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(writer, "save_file", failing(writer.save_file))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    for nth in range(1, 100):
        left = nth
        try:
            save_checkpoint(new, SMALL, tmp_path, max_shard_bytes=60_000)
        except CheckpointError as error:
            said = str(error)
        if left > 0:
            break
        assert "No space left on device" in said
        assert contents(tmp_path) == before
    assert nth > 15
    assert_same(read(tmp_path), new)
    assert not list(tmp_path.glob(".*"))


def save_until(nth: int, state: dict[str, torch.Tensor], path: Path) -> None:
    """Saves in a child process that dies without a word at its ``nth`` rename."""
    calls, real = iter(range(1000)), os.replace
    os.replace = lambda *args: os._exit(7) if next(calls) == nth else real(*args)
    save_checkpoint(state, SMALL, path, max_shard_bytes=60_000)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_crash_leaves_no_mixture(tmp_path: Path) -> None:
    """Killed before its nth rename, a save leaves the old model, the new one, or a refused one."""
    old, new = state_of(SMALL), state_of(SMALL, seed=1)
    results = []
    for nth in range(30):
        path = tmp_path / str(nth)
        save_checkpoint(old, SMALL, path, max_shard_bytes=60_000)
        child = os.fork()
        if child == 0:
            save_until(nth, new, path)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            found = read(path)
        except CheckpointError:
            results.append("refused")
        else:
            which = old if torch.equal(found["lm_head.weight"], old["lm_head.weight"]) else new
            assert_same(found, which)
            results.append("old" if which is old else "new")
        if status == 0:
            break
    assert results[0] == "old"
    assert results[-1] == "new"
    assert set(results[1:-1]) <= {"refused", "new"}
    # What was refused can be saved over.
    assert results[3] == "refused"
    with pytest.raises(CheckpointError, match="A save was cut short"):
        SafetensorsReader(tmp_path / "3")
    save_checkpoint(new, SMALL, tmp_path / "3", max_shard_bytes=60_000)
    assert_same(read(tmp_path / "3"), new)
    assert not list((tmp_path / "3").glob(".previous-*"))


def test_arguments_and_places(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="max_shard_bytes"):
        save_checkpoint({}, SMALL, tmp_path, max_shard_bytes=0)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="a place that can be written"):
        save_checkpoint(state_of(LLAMA), LLAMA, tmp_path / "file" / "model")
