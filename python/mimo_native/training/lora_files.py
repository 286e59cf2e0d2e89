"""Adapters as the files that PEFT writes: adapter_config.json and adapter_model.safetensors.

There every linear layer has an A and a B of its own. Here layers that share a matrix share an A, so
saving repeats it; what is loaded has as many rows in A as there are different ones, and zeros in B
for the others.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import CheckpointError, UnsupportedError
from ..nn.weight import Part, Weight
from ..weights.files import read_json, replace_files
from .lora import AdaptedWeight, adapt

__all__ = ["is_lora", "load_lora", "save_lora"]

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What would make the sum another one, by the value with which it does nothing.
_OTHER_KINDS: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
}


def is_lora(path: str | Path) -> bool:
    """Whether ``path`` is a directory of an adapter and not of a whole model."""
    path = Path(path)
    return (path / _CONFIG).is_file() and not (path / "config.json").exists()


def save_lora(model: nn.Module, directory: str | Path, *, base: str | None = None) -> None:
    """Write the adapters of ``model``; base: the name of the model that they belong to.

    Raises UnsupportedError for a model without adapters or with some of different ranks, as may be
    after ``load_lora`` of another program's, CheckpointError where it cannot write.
    """
    directory, tensors, kinds = Path(directory), {}, set()
    for name, module in model.named_modules():
        if not isinstance(module, AdaptedWeight):
            continue
        kinds.add((module.a.shape[-2], module.scale))
        for part in module.parts():
            a, b = (x.detach() if part.expert is None else x.detach()[part.expert]
                    for x in (module.a, module.b))  # fmt: skip
            stem = _PREFIX + _stem(name, part)
            tensors[f"{stem}.lora_A.weight"] = a.clone()
            tensors[f"{stem}.lora_B.weight"] = b[part.start : part.stop].clone()
    if len(kinds) != 1:
        what = f"adapters of different ranks, {sorted(kinds)}" if kinds else "no adapters"
        raise UnsupportedError("save_lora", [f"the model has {what}"])
    [(rank, scale)] = kinds
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "inference_mode": True,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))
        try:
            (stage / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")
            save_file(tensors, stage / _TENSORS)
            staged = {name: stage / name for name in (_TENSORS, _CONFIG)}
            replace_files(directory, staged, stale=(), key=_CONFIG)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(directory), "adapter", expected="a place that can be written", got=str(error)
        ) from error


def load_lora(model: nn.Module, directory: str | Path) -> None:
    """Freeze ``model`` and give it the adapters of ``directory``, to be trained on or merged.

    Raises CheckpointError for files that are missing, damaged or of another model, UnsupportedError
    for other kinds of adapters and where the weights are packed or adapted; the model then stays as
    it was.
    """
    directory = Path(directory)
    config = read_json(directory / _CONFIG)
    reasons = [
        f"{name} {config.get(name)!r}"
        for name, plain in _OTHER_KINDS.items()
        if config.get(name) not in plain
    ]
    if reasons:
        raise UnsupportedError(str(directory / _CONFIG), reasons)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise CheckpointError(
            str(directory / _CONFIG), "r, lora_alpha", expected="numbers", got=f"{rank}, {alpha}"
        )
    tensors = _read(directory / _TENSORS)
    found = _place(model, tensors, rank, str(directory / _TENSORS))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    model.requires_grad_(False)
    for module, pairs in found.items():
        adapt(module, *_factors(module, pairs, rank), scale)


def _stem(name: str, part: Part) -> str:
    """ "model.layers.0.self_attn.qkv" and its first part -> "model.layers.0.self_attn.q_proj" """
    return f"{name.rpartition('.')[0]}.{part.hub_name}".removesuffix(".weight")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(path), "file", expected="an adapter's tensors", got=str(error)
        ) from None


Pairs = dict[Part, tuple[Tensor, Tensor]]


def _place(
    model: nn.Module, tensors: Mapping[str, Tensor], rank: int, where: str
) -> dict[Weight, Pairs]:
    """The A and B of every part of a weight that has them, checked."""
    left, found = dict(tensors), {}
    for name, module in model.named_modules():
        if not isinstance(module, Weight):
            continue
        pairs: Pairs = {}
        for part in module.parts():
            stem = _PREFIX + _stem(name, part)
            shapes = {"A": (rank, module.in_features), "B": (part.stop - part.start, rank)}
            pair = []
            for side, shape in shapes.items():
                tensor = left.pop(f"{stem}.lora_{side}.weight", None)
                if tensor is not None:
                    got = tuple(tensor.shape)
                    if got != shape:
                        raise CheckpointError(
                            where, f"{stem}.lora_{side}", expected=str(shape), got=str(got)
                        )
                    pair.append(tensor)
            if len(pair) == 1:
                raise CheckpointError(where, stem, expected="both lora_A and lora_B", got="one")
            if pair:
                pairs[part] = (pair[0], pair[1])
        if pairs:
            found[module] = pairs
            if module.packed or isinstance(module, AdaptedWeight):
                what = "packed: call model.unpack()" if module.packed else "adapted: merge_lora"
                raise UnsupportedError("load_lora", [f"{name} is {what} first"])
    if left or not found:
        got = next(iter(left)) if left else "none"
        raise CheckpointError(where, "tensors", expected="those of this model's layers", got=got)
    return found


def _factors(module: Weight, pairs: Pairs, rank: int) -> tuple[Tensor, Tensor]:
    """a [R, K] and b [N, R], or [E, R, K] and [E, N, R], of which b @ a is every part's B A."""
    *experts, rows, columns = module.weight.shape
    different: dict[int | None, list[Tensor]] = {}
    places: dict[Part, int] = {}
    for part, (a, _) in pairs.items():
        known = different.setdefault(part.expert, [])
        place = next((i for i, other in enumerate(known) if torch.equal(a, other)), len(known))
        if place == len(known):
            known.append(a)
        places[part] = place
    count = max(map(len, different.values()))
    a_all = module.weight.new_zeros(*experts, count * rank, columns)
    b_all = module.weight.new_zeros(*experts, rows, count * rank)
    for part, (a, b) in pairs.items():
        at = slice(places[part] * rank, (places[part] + 1) * rank)
        whole_a = a_all if part.expert is None else a_all[part.expert]
        whole_b = b_all if part.expert is None else b_all[part.expert]
        whole_a[at] = a
        whole_b[part.start : part.stop, at] = b
    return a_all, b_all
