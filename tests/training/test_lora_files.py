"""Adapters on disk: back bit for bit, PEFT's own layout, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mimo_native as mn
from mimo_native.training import load_lora, merge_lora, save_lora

from ..pretrain.models import random_model, tiny
from .test_lora import adapted, weights

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_saved_comes_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model, again = adapted(dtype), random_model(tiny(), dtype=dtype)
    save_lora(model, tmp_path, base="some/model")
    load_lora(again, tmp_path)
    trained = {n for n, p in again.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}
    for one, two in zip(weights(model), weights(again), strict=True):
        assert one[0] == two[0]
        assert torch.equal(one[1].a, two[1].a)
    merge_lora(again)
    want, got = model.state_dict(), again.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    config = json.loads((tmp_path / _CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 1.5)
    assert config["base_model_name_or_path"] == "some/model"
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj"} <= set(config["target_modules"])
    assert not list(tmp_path.glob(".*"))


def foreign(path: Path, model: mn.MiMoForCausalLM, **changes: object) -> dict[str, torch.Tensor]:
    """As another program writes it: q and v alone, each with an A of its own."""
    generator, tensors = torch.Generator().manual_seed(5), {}
    for name, tensor in model.state_dict().items():
        if name.startswith("model.layers.") and name.endswith(("q_proj.weight", "v_proj.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            for side, shape in (("A", (2, tensor.shape[1])), ("B", (tensor.shape[0], 2))):
                tensors[f"{stem}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none"}
    config |= {"use_dora": False, "rank_pattern": {}, "target_modules": ["q_proj", "v_proj"]}
    path.mkdir(exist_ok=True)
    (path / _CONFIG).write_text(json.dumps(config | changes))
    save_file(tensors, path / _TENSORS)
    return tensors


@pytest.mark.parametrize(("rslora", "scale"), [(False, 1.5), (True, 3 / 2**0.5)])
def test_layers_with_an_a_of_their_own(rslora: bool, scale: float, tmp_path: Path) -> None:
    model = random_model(tiny(), dtype=torch.float32)
    before = {name: tensor.double() for name, tensor in model.state_dict().items()}
    tensors = foreign(tmp_path, model, use_rslora=rslora)
    load_lora(model, tmp_path)
    merge_lora(model)
    for name, tensor in model.state_dict().items():
        stem, want = f"base_model.model.{name.removesuffix('.weight')}", before[name]
        if f"{stem}.lora_A.weight" in tensors:
            a, b = (tensors[f"{stem}.lora_{side}.weight"].double() for side in "AB")
            want = want + scale * b @ a
        torch.testing.assert_close(tensor.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"peft_type": "LOHA"}, mn.UnsupportedError, "peft_type 'LOHA'"),
        ({"use_dora": True}, mn.UnsupportedError, "use_dora True"),
        ({"alpha_pattern": {"q_proj": 4}}, mn.UnsupportedError, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, mn.UnsupportedError, "modules_to_save"),
        ({"r": 4}, mn.CheckpointError, r"lora_A: expected \(4, "),
        ({"r": None}, mn.CheckpointError, "r, lora_alpha"),
    ],
    ids=str,
)
def test_other_kinds_are_refused(
    changes: dict[str, object], error: type, named: str, tmp_path: Path
) -> None:
    model = random_model(tiny(), dtype=torch.float32)
    foreign(tmp_path, model, **changes)
    with pytest.raises(error, match=named):
        load_lora(model, tmp_path)
    assert not weights(model)
    assert all(p.requires_grad for p in model.parameters())


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    model = random_model(tiny(), dtype=torch.float32)
    tensors = foreign(tmp_path, model)
    name = next(iter(tensors))
    for wrong, named in (
        (tensors | {"base_model.model.model.layers.99.x": tensors[name].clone()}, "got .*99"),
        ({n: t for n, t in tensors.items() if n != name}, "both lora_A and lora_B"),
    ):
        save_file(wrong, tmp_path / _TENSORS)
        with pytest.raises(mn.CheckpointError, match=named):
            load_lora(model, tmp_path)
    (tmp_path / _TENSORS).write_bytes(b"torn")
    with pytest.raises(mn.CheckpointError, match="an adapter's tensors"):
        load_lora(model, tmp_path)
    assert not weights(model)


def test_what_has_no_place_for_adapters(tmp_path: Path) -> None:
    with pytest.raises(mn.UnsupportedError, match="has no adapters"):
        save_lora(random_model(tiny(), dtype=torch.float32), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    mixed = random_model(tiny(), dtype=torch.float32)
    tensors = foreign(tmp_path / "mixed", mixed)
    last = [n for n in tensors if "layers.3." in n and "v_proj" in n]
    save_file({n: t for n, t in tensors.items() if n not in last}, tmp_path / "mixed" / _TENSORS)
    load_lora(mixed, tmp_path / "mixed")
    with pytest.raises(mn.UnsupportedError, match="different ranks"):
        save_lora(mixed, tmp_path / "none")
    save_lora(adapted(torch.float32), tmp_path)
    assert len(load_file(tmp_path / _TENSORS)) % 2 == 0
    with pytest.raises(mn.UnsupportedError, match="adapted: merge_lora first"):
        load_lora(adapted(torch.float32), tmp_path)
    with pytest.raises(mn.UnsupportedError, match=r"packed: call model\.unpack"):
        load_lora(random_model(tiny(), dtype=torch.float32).pack(), tmp_path)
