"""Writes a checkpoint in the hub's layout, whole or not at all.

Everything is first written beside its final place under other names; only then do the files change
places. A full disk, an interrupt or a misshapen tensor leaves an earlier checkpoint as it was.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..config import MiMoConfig
from ..errors import CheckpointError
from .files import read_json, replace_files
from .layout import TensorSpec, expected_tensors

__all__ = ["save_checkpoint"]

_INDEX, _SINGLE, _MTP = "model.safetensors.index.json", "model.safetensors", "model_mtp.safetensors"
_CONFIG = "config.json"
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def save_checkpoint(
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    config: MiMoConfig,
    directory: str | Path,
    *,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes the model ``tensors`` of ``config.unquantized()`` and its ``config.json``.

    ``tensors`` is a state dict or a stream of (name, tensor), of which one shard is held at a time;
    other files in ``directory`` stay. One shard becomes ``model.safetensors``, several become
    ``model-0000i-of-0000n.safetensors`` with an index; ``model.mtp.*`` goes to
    ``model_mtp.safetensors``. Raises ``CheckpointError`` for a missing, unexpected, repeated or
    misshapen tensor and for a write that fails.
    """
    config, directory = config.unquantized(), Path(directory)
    if max_shard_bytes < 1:
        raise CheckpointError(
            "save_checkpoint", "max_shard_bytes", expected=">= 1", got=str(max_shard_bytes)
        )
    stream = tensors.items() if isinstance(tensors, Mapping) else tensors
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))
        try:
            _save(_checked(stream, config), config, directory, stage, max_shard_bytes)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            str(directory),
            "file",
            expected="a place that can be written",
            got=str(error),
            remedy="Free disk space or choose another directory; nothing there was changed.",
        ) from error
    finally:
        if not existed and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _checked(
    stream: Iterable[tuple[str, Tensor]], config: MiMoConfig
) -> Iterator[tuple[str, Tensor]]:
    """Passes the stream on and compares it with what the config implies."""
    missing = expected_tensors(config)
    for name, tensor in stream:
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue  # a state dict names the embedding twice
        _check_one(name, tensor, missing.pop(name, None))
        yield name, tensor
    if missing:
        raise CheckpointError(
            "save_checkpoint",
            "tensors",
            expected="every tensor that the config implies",
            got=f"no {next(iter(missing))} and {len(missing) - 1} more",
        )


def _check_one(name: str, tensor: Tensor, spec: TensorSpec | None) -> None:
    if spec is None:
        raise CheckpointError(
            "save_checkpoint",
            name,
            expected="a tensor that the config implies, once",
            got="another",
        )
    if tuple(tensor.shape) != spec.shape or tensor.dtype not in _FLOATS:
        raise CheckpointError(
            "save_checkpoint",
            name,
            expected=f"{list(spec.shape)} of a float dtype",
            got=f"{list(tensor.shape)} {tensor.dtype}",
        )


def _save(
    stream: Iterator[tuple[str, Tensor]],
    config: MiMoConfig,
    directory: Path,
    stage: Path,
    max_shard_bytes: int,
) -> None:
    shards: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    mtp: dict[str, Tensor] = {}
    held = total = 0

    def close_shard() -> None:
        _write_tensors(shard, stage / f"shard-{len(shards)}")
        shards.append(list(shard))
        shard.clear()

    dtype = config.torch_dtype
    for name, tensor in stream:
        if name == "model.embed_tokens.weight":
            dtype = str(tensor.dtype).removeprefix("torch.")  # what the weights now are
        if name.startswith("model.mtp."):
            mtp[name] = tensor
            continue
        if shard and held + tensor.nbytes > max_shard_bytes:
            close_shard()
            held = 0
        shard[name] = tensor
        held += tensor.nbytes
        total += tensor.nbytes
    close_shard()

    staged = {_CONFIG: stage / _CONFIG}
    _write_json(replace(config, torch_dtype=dtype).to_dict(), staged[_CONFIG])
    if mtp:
        staged[_MTP] = stage / _MTP
        _write_tensors(mtp, staged[_MTP])
    count, key = len(shards), _SINGLE
    if count == 1:
        staged[_SINGLE] = stage / "shard-0"
    else:
        key, weight_map = _INDEX, dict.fromkeys(mtp, _MTP)
        for i, names in enumerate(shards):
            file_name = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
            staged[file_name] = stage / f"shard-{i}"
            weight_map |= dict.fromkeys(names, file_name)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        staged[_INDEX] = stage / _INDEX
        _write_json(index, staged[_INDEX])
    stale = [name for name in _weight_files(directory) if name not in staged]
    replace_files(directory, staged, stale=stale, key=key)


def _weight_files(directory: Path) -> list[str]:
    """The files that make up the checkpoint now in ``directory``, as far as it can be read."""
    names = [_INDEX, _SINGLE, _MTP]
    try:
        shards = read_json(directory / _INDEX).get("weight_map", {}).values()
        names += {str(shard) for shard in shards if Path(str(shard)).name == shard}
    except CheckpointError:
        pass  # no index, or none that says what belongs to it
    return [name for name in names if (directory / name).is_file()]


def _write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    # The format wants contiguous tensors that share no storage.
    alone: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        alone[name] = tensor
    save_file(alone, file, metadata={"format": "pt"})
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _write_json(content: dict, file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
