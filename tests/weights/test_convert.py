"""Converted checkpoints: the same model from a mapped file, written whole or not at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mimo_native import CheckpointError, MiMoForCausalLM, UnsupportedError
from mimo_native.nn import Weight
from mimo_native.text import Tokenizer
from mimo_native.weights.convert import convert
from mimo_native.weights.fit import fit

from ..system.command_line import mimo
from ..system.tiny_checkpoint import save_tiny_checkpoint
from . import gguf_files
from .cases import contents

FORMATS = ["bf16", "e4m3_128x128", "int8_row", "int8_32", "int4_32", "mxfp4", "int8_row_a8",
           {"experts": "int4_32", "head": "int8_row"}]  # fmt: skip


def logits(model: MiMoForCausalLM) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12) * 5 % model.config.vocab_size
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_converted_model_is_the_same_model(tiny: Path, tmp_path: Path, format) -> None:
    told = []
    out = tmp_path / "out"
    report = convert(tiny, out, weight_format=format, progress=lambda *a: told.append(a))
    want = MiMoForCausalLM.from_pretrained(tiny, weight_format=format)
    got = MiMoForCausalLM.from_pretrained(tmp_path / "out")
    assert logits(got).equal(logits(want))
    ours, theirs = (dict(m.hub_tensors()) for m in (got, want))
    assert ours.keys() == theirs.keys()
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    held = {n: m.weight.format for n, m in got.named_modules() if isinstance(m, Weight)}
    assert held == {n: m.weight.format for n, m in want.named_modules() if isinstance(m, Weight)}
    assert told[-1][1:] == (len(held), len(held))
    assert set(report.weight_bytes) == set(held.values())
    assert Tokenizer.from_pretrained(tmp_path / "out").vocab_size
    # The file is a plain safetensors file, and what fit counts is what lies in it,
    with safe_open(tmp_path / "out" / "model-packed.safetensors", framework="pt") as file:
        total = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    # but for the padding to panels, of which a model of this size has much.
    assert sum(fit(tmp_path / "out").weight_bytes.values()) == pytest.approx(total, rel=0.1)


def test_the_weights_stay_in_the_file(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path / "out", weight_format="int8_32")
    model = MiMoForCausalLM.from_pretrained(tmp_path / "out")
    storage = model.head.weight.storage
    file = (tmp_path / "out" / "model-packed.safetensors").resolve()
    spans = [
        [int(n, 16) for n in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(file))
    ]
    assert any(low <= storage.data_ptr() < high for low, high in spans)


def test_gguf_with_its_tokenizer(tmp_path: Path, smollm2_path: Path) -> None:
    convert(smollm2_path, tmp_path / "out", weight_format="stored")
    want = MiMoForCausalLM.from_pretrained(smollm2_path, weight_format="stored")
    assert logits(MiMoForCausalLM.from_pretrained(tmp_path / "out")).equal(logits(want))
    tokenizers = [Tokenizer.from_pretrained(p) for p in (smollm2_path, tmp_path / "out")]
    text = "Two tokenizers, one text: naïve 123"
    assert tokenizers[0].encode(text) == tokenizers[1].encode(text)


def test_all_or_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"

    def stop(name: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tiny, target, weight_format="int8_row", progress=stop)
    assert not target.exists()
    convert(tiny, target, weight_format="int8_row")
    before = contents(target)
    with pytest.raises(KeyboardInterrupt):
        convert(tiny, target, weight_format="int4_32", progress=stop)
    assert contents(target) == before
    convert(tiny, target, weight_format="int4_32")
    assert contents(target).keys() == before.keys()
    with pytest.raises(CheckpointError, match="Name another directory"):
        convert(target / "..", tiny, weight_format="int8_row")
    with pytest.raises(UnsupportedError, match="packed already"):
        convert(target, tmp_path / "again", weight_format="int8_row")
    with pytest.raises(UnsupportedError, match="no format 'int3'"):
        convert(tiny, tmp_path / "bad", weight_format="int3")
    assert not (tmp_path / "bad").exists()


def test_damaged_and_unfit_requests(tiny: Path, tmp_path: Path) -> None:
    convert(tiny, tmp_path / "out", weight_format="int8_row")
    load = MiMoForCausalLM.from_pretrained
    for options in ({"dtype": torch.float32}, {"weight_format": "int4_32"}):
        with pytest.raises(UnsupportedError, match="packed for bfloat16"):
            load(tmp_path / "out", **options)
    index = json.loads((tmp_path / "out" / "packed.json").read_text())
    for edit, error, message in (
        ({"version": 2}, UnsupportedError, "version 2"),
        ({"weights": []}, CheckpointError, "an object"),
        ({"weights": index["weights"] | {"head": {"format": "int8_32", "shape": [640, 96]}}},
         CheckpointError, "head"),
    ):  # fmt: skip
        (tmp_path / "out" / "packed.json").write_text(json.dumps(index | edit))
        with pytest.raises(error, match=message):
            load(tmp_path / "out")
    (tmp_path / "out" / "packed.json").write_text(json.dumps(index))
    data = tmp_path / "out" / "model-packed.safetensors"
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cut short"):
        load(tmp_path / "out")


def test_the_command(tiny: Path, tmp_path: Path) -> None:
    formats = ("--format", "int8_row", "--format", "experts=int4_32")
    done = mimo("convert", str(tiny), str(tmp_path / "out"), *formats, "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["weight_bytes"]) == {"int8_row", "int4_32", "f32"}
    fitted = mimo("fit", str(tiny), *formats, "--json")
    assert fitted.returncode == 0, fitted.stderr
    counted = json.loads(fitted.stdout)["weight_bytes"]
    again = json.loads(mimo("fit", str(tmp_path / "out"), "--dtype", "stored", "--json").stdout)
    assert counted["experts"] == again["weight_bytes"]["experts"]
    refused = mimo("convert", str(tiny), str(tmp_path / "bad"), "--format", "router=int8_row")
    assert refused.returncode == 2
    assert "no component 'router'" in refused.stderr


def test_gguf_without_a_tokenizer(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf", gguf_files.Llama())
    convert(path, tmp_path / "out", weight_format="int8_32", dtype=torch.float32)
    model = MiMoForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    want = MiMoForCausalLM.from_pretrained(path, dtype=torch.float32, weight_format="int8_32")
    assert logits(model).equal(logits(want))
