"""MTP heads apart from their trunk: a small directory that ``load`` adds to the model it is for.

mtp.json          {"version": 1, "trunk": DIGEST, "heads": K, "window_keys": W, ..}: whose heads
                  they are, and the fields of the config that they need beside the trunk's
mtp.safetensors   their tensors under the hub's names; a linear weight as codes, NAME, with
                  NAME_scale as ``ops.pack`` takes them
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..config import MiMoConfig
from ..errors import CheckpointError, ShapeError
from ..nn import MiMoForCausalLM
from ..ops._coded import CODED, Codes, quantize, stored_codes
from .files import read_json, replace_files
from .layout import expected_tensors

__all__ = ["heads_config", "save_heads", "stream_heads", "trunk_digest"]

_INDEX, _DATA, _VERSION = "mtp.json", "mtp.safetensors", 1
_SCALE = "_scale"
# Of the config, what MTP blocks are made of and a trunk without sliding layers may leave open.
_FIELDS = (
    "num_mtp_layers",
    "window_keys",
    "add_swa_attention_sink_bias",
    *(field.name for field in fields(MiMoConfig) if field.name.startswith("swa_")),
)


def trunk_digest(tensors: Iterable[tuple[str, Tensor | Codes]]) -> str:
    """SHA-256 over the norm weights of the main layers, which no format rounds: a trunk's name.

    tensors: (hub name, tensor) in any order, others among them.
    """
    norms = {
        name: tensor.detach().to(torch.bfloat16).view(torch.int16)
        for name, tensor in tensors
        if is_trunk_norm(name) and isinstance(tensor, Tensor)
    }
    digest = hashlib.sha256()
    for name in sorted(norms):
        digest.update(name.encode() + b"\0" + norms[name].numpy().tobytes())
    return digest.hexdigest()


def is_trunk_norm(name: str) -> bool:
    return name.endswith("norm.weight") and not name.startswith("model.mtp.")


def save_heads(
    model: MiMoForCausalLM,
    directory: str | Path,
    *,
    format: str | None = "int8_row",
    files: Sequence[Path] = (),
) -> None:
    """Write the MTP heads of ``model`` into ``directory``, with copies of ``files``.

    format: of their linear weights, int8_row or int8_32; None: as they are. Raises ShapeError for a
    model without heads or another format, CheckpointError where the disk cannot be written; what
    was there stays as it was.
    """
    if not model.config.num_mtp_layers:
        raise ShapeError("save_heads", "model", expected="MTP heads", got="none")
    if format not in (None, "int8_row", "int8_32"):
        expected = "int8_row, int8_32 or None"
        raise ShapeError("save_heads", "format", expected=expected, got=repr(format))
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.model.mtp.state_dict().items():
        tensors |= dict(_coded(f"model.mtp.{name}", tensor.detach().contiguous(), format))
    index = {
        "version": _VERSION,
        "trunk": trunk_digest(model.named_parameters()),
        "format": format,
        "config": {name: getattr(model.config, name) for name in _FIELDS},
    }
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))
        try:
            save_file(tensors, stage / _DATA, metadata={"format": "pt"})
            (stage / _INDEX).write_text(json.dumps(index, indent=1) + "\n")
            staged = {name: stage / name for name in (_DATA, _INDEX)}
            for file in files:
                shutil.copyfile(file, stage / file.name)
                staged[file.name] = stage / file.name
            for file in staged.values():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
            replace_files(directory, staged, stale=(), key=_INDEX)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(directory), "file", expected="a place that can be written", got=str(error)
        ) from error


def _coded(name: str, tensor: Tensor, format: str | None) -> Iterator[tuple[str, Tensor]]:
    if tensor.ndim != 2 or format is None:
        yield name, tensor.clone()
        return
    codes = quantize(tensor, format)
    yield name, codes.codes.view(CODED[format].code_dtype)
    yield name + _SCALE, codes.scales


def heads_config(directory: Path, trunk: MiMoConfig) -> MiMoConfig:
    """``trunk`` with the heads in ``directory``. Raises CheckpointError where they do not go."""
    index, where = _read_index(directory), str(directory / _INDEX)
    if trunk.num_mtp_layers:
        got = f"a model with {trunk.num_mtp_layers} heads of its own"
        raise CheckpointError(where, "heads", expected="a model without MTP heads", got=got)
    values = index.get("config")
    if not isinstance(values, dict) or set(values) != set(_FIELDS):
        raise CheckpointError(where, "config", expected=", ".join(_FIELDS), got=repr(values)[:200])
    try:
        return replace(trunk, **values)
    except ShapeError as error:
        raise CheckpointError(
            where, error.argument, expected=error.expected, got=error.got
        ) from None


def stream_heads(
    directory: Path, config: MiMoConfig, trunk: Iterable[tuple[str, Tensor | Codes]]
) -> Iterator[tuple[str, Tensor | Codes]]:
    """The tensors of ``trunk``, then those of its heads, in codes where they are stored as such.

    Raises CheckpointError for heads of another trunk, and for missing or misshapen tensors.
    """
    index = _read_index(directory)
    heads = list(_tensors(directory, index.get("format"), config))
    norms = []
    for name, tensor in trunk:
        if is_trunk_norm(name) and isinstance(tensor, Tensor):
            norms.append((name, tensor.to(torch.bfloat16, copy=True)))
        yield name, tensor
    digest = trunk_digest(norms)
    if digest != index.get("trunk"):
        raise CheckpointError(
            str(directory),
            "trunk",
            expected=f"the model with the digest {str(index.get('trunk'))[:16]}",
            got=f"one with {digest[:16]}",
            remedy="These heads were trained on another model: their drafts would be noise.",
        )
    yield from heads


def _tensors(
    directory: Path, format: Any, config: MiMoConfig
) -> Iterator[tuple[str, Tensor | Codes]]:
    where = str(directory / _DATA)
    try:
        stored = load_file(directory / _DATA)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(where, "file", expected="safetensors", got=str(error)) from None
    for name, spec in expected_tensors(config).items():
        if not name.startswith("model.mtp."):
            continue
        tensor, scale = stored.get(name), stored.get(name + _SCALE)
        if tensor is None or tuple(tensor.shape) != spec.shape:
            got = "no such tensor" if tensor is None else str(list(tensor.shape))
            raise CheckpointError(where, name, expected=str(list(spec.shape)), got=got)
        if scale is None:
            yield name, tensor
            continue
        try:
            yield name, stored_codes(tensor, str(format), scale)
        except (ShapeError, KeyError) as error:
            raise CheckpointError(
                where, name, expected="codes and scales", got=str(error)
            ) from None


def _read_index(directory: Path) -> dict[str, Any]:
    index = read_json(directory / _INDEX)
    if index.get("version") != _VERSION:
        raise CheckpointError(
            str(directory / _INDEX),
            "version",
            expected=str(_VERSION),
            got=repr(index.get("version")),
            remedy="Name a directory that `mimo-native pretrain smollm2` has written.",
        )
    return index
