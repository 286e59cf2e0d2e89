"""Reads a checkpoint in the hub's layout: everything is checked before the first byte of data.

reader = SafetensorsReader(path)  # index and headers only
for name, tensor in reader.stream(config):  # names and shapes are checked here
    ...  # a view of the file, to be copied
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import LayerConfig, MiMoConfig
from ..errors import CheckpointError
from ..ops._coded import Codes
from .check import check_tensors, wanted
from .coded import coded_format, codes_of, weight_of_scale
from .files import read_json
from .mapped_file import MappedFile
from .qkv_layouts import split_fused_qkv
from .safetensors_header import StoredTensor, read_header

__all__ = ["SafetensorsReader", "count_mtp_layers", "has_weights"]

_INDEX, _SINGLE, _MTP = "model.safetensors.index.json", "model.safetensors", "model_mtp.safetensors"
_BLOCK = re.compile(r"^model\.(?:(mtp)\.)?layers\.(\d+)\.")


class SafetensorsReader:
    """The tensors of a directory: ``model.safetensors`` or its index's shards, and its MTP file.

    ``tensors`` maps every stored name to its place. Opening reads headers only and raises
    ``CheckpointError`` for a missing, damaged or contradictory file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        files, weight_map, self.metadata = _files(self.path)
        self.tensors: dict[str, StoredTensor] = {}
        for file in files:
            for tensor in read_header(file):
                earlier = self.tensors.setdefault(tensor.name, tensor)
                if earlier is not tensor:
                    got = f"{earlier.file.name} and {file.name}"
                    raise CheckpointError(
                        str(self.path), tensor.name, expected="one file that holds it", got=got
                    )
        for name, file_name in weight_map.items():
            stored = self.tensors.get(name)
            if stored is None or stored.file.name != file_name:
                raise CheckpointError(
                    str(self.path / _INDEX),
                    name,
                    expected=f"in {file_name}",
                    got="not there" if stored is None else f"in {stored.file.name}",
                    remedy="Index and shards are of different checkpoints: fetch both again.",
                )

    def tensor(self, name: str) -> Tensor:
        """The stored tensor ``name``, a private view of the file (writing does not change it)."""
        if name not in self.tensors:
            raise CheckpointError(str(self.path), name, expected="a stored tensor", got="nothing")
        stored = self.tensors[name]
        return MappedFile(stored.file).view(stored)

    def validate(self, config: MiMoConfig) -> None:
        """Compares all names, shapes and dtypes with what ``config`` expects.

        Raises ``UnsupportedError`` for a format that is not read, ``CheckpointError`` for missing,
        unexpected or misshapen tensors.
        """
        check_tensors(str(self.path), config, self.tensors)

    def stream(self, config: MiMoConfig) -> Iterator[tuple[str, Tensor | Codes]]:
        """Validates, then yields every tensor of ``config.unquantized()``, file by file.

        A tensor is a view of the file whose pages are dropped when the next one is asked for: copy
        what shall stay. One that is stored as codes comes with its scales. Errors as in
        ``validate``, raised by the call itself.
        """
        self.validate(config)
        return self._stream(config)

    def coded_formats(self, config: MiMoConfig) -> dict[str, str]:
        """The weight formats of the model's tensors that are stored as codes."""
        formats = {}
        for name, stored in self.tensors.items():
            format = coded_format(stored)
            if format is not None and weight_of_scale(name, self.tensors) is None:
                head, fused, tail = name.partition(".qkv_proj.")
                names = [f"{head}.{x}_proj.{tail}" for x in "qkv"] if fused else [name]
                formats |= dict.fromkeys(names, format)
        return formats

    def _stream(self, config: MiMoConfig) -> Iterator[tuple[str, Tensor | Codes]]:
        by_file: dict[Path, list[StoredTensor]] = {}
        for name in wanted(config, self.tensors):
            if weight_of_scale(name, self.tensors) is not None:
                continue
            by_file.setdefault(self.tensors[name].file, []).append(self.tensors[name])
        for file, stored in by_file.items():
            mapped = MappedFile(file)
            for one in sorted(stored, key=lambda tensor: tensor.start):
                yield from self._split(config, one.name, mapped.view(one))
                mapped.drop_pages(one)

    def _split(
        self, config: MiMoConfig, name: str, tensor: Tensor
    ) -> Iterator[tuple[str, Tensor | Codes]]:
        fused = name.endswith(".qkv_proj.weight")
        layer = _layer_of(config, name) if "self_attn." in name else None
        ranks = self._ranks(config)
        weight: Tensor | Codes = tensor
        if coded_format(self.tensors[name]) is not None:
            weight = codes_of(str(self.path), name, tensor, self.tensor, layer, ranks=ranks)
        if not fused or layer is None:
            yield name, weight
            return
        if isinstance(weight, Codes):
            columns = [
                split_fused_qkv(t, layer, ranks=ranks) for t in (weight.codes, weight.scales)
            ]
            parts = [Codes(weight.format, *pair) for pair in zip(*columns, strict=True)]
        else:
            parts = split_fused_qkv(weight, layer, ranks=ranks)
        for letter, part in zip("qkv", parts, strict=True):
            yield name.replace("qkv_proj", f"{letter}_proj"), part

    def _ranks(self, config: MiMoConfig) -> int:
        """Tensor-parallel ranks that fused projections are made of."""
        ranks = self.metadata.get("tp_size", config.num_key_value_heads)
        if not isinstance(ranks, int):
            raise CheckpointError(
                str(self.path / _INDEX), "metadata.tp_size", expected="an integer", got=repr(ranks)
            )
        return ranks


def has_weights(directory: Path) -> bool:
    """Whether ``directory`` holds an index or a file that ``SafetensorsReader`` would open."""
    return any((directory / name).exists() for name in (_INDEX, _SINGLE, _MTP))


def count_mtp_layers(directory: Path) -> int:
    """Number of MTP blocks whose tensors lie in ``directory``; 0 where it holds no weights."""
    if not has_weights(directory):
        return 0
    files, weight_map, _ = _files(directory, need_main=False)
    names = set(weight_map)
    for file in files:
        if file.name not in weight_map.values():
            names |= {tensor.name for tensor in read_header(file)}
    blocks = [int(m[2]) for m in map(_BLOCK.match, names) if m and m[1]]
    return max(blocks, default=-1) + 1


def _layer_of(config: MiMoConfig, name: str) -> LayerConfig:
    block = _BLOCK.match(name)
    assert block is not None
    return config.mtp_layer() if block[1] else config.layer(int(block[2]))


def _files(
    path: Path, *, need_main: bool = True
) -> tuple[list[Path], Mapping[str, str], Mapping[str, Any]]:
    """The files to open, the index's name -> file map and its metadata."""
    weight_map: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    names: list[str] = []
    if (path / _INDEX).exists():
        index = read_json(path / _INDEX)
        weight_map, metadata = _weight_map(path / _INDEX, index), index.get("metadata") or {}
        names = sorted(set(weight_map.values()))
    elif (path / _SINGLE).exists():
        names = [_SINGLE]
    elif need_main:
        raise _no_weights(path)
    if (path / _MTP).exists() and _MTP not in names:
        names.append(_MTP)
    return [path / name for name in names], weight_map, metadata


def _weight_map(file: Path, index: Mapping[str, Any]) -> dict[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            str(file), "weight_map", expected="an object of names and files", got=repr(weight_map)
        )
    for name, shard in weight_map.items():
        # A shard lies beside its index, nowhere else.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(str(file), name, expected="a file name", got=repr(shard))
    return weight_map


def _no_weights(path: Path) -> CheckpointError:
    found = sorted(p.name for p in path.glob("*")) if path.is_dir() else []
    remedy = "Point at the directory that holds the weights."
    if any(name.endswith((".bin", ".pt", ".pth")) for name in found):
        remedy = "Convert the weights to safetensors."
    elif any(name.endswith(".safetensors") for name in found):
        remedy = f"Fetch {_INDEX} too: it says which shard holds what."
    if any(name.startswith(".previous-") for name in found):
        remedy = "A save was cut short here; what it replaced lies in .previous-*."
    got = f"{len(found)} other files" if path.is_dir() else "no such directory"
    return CheckpointError(
        str(path), "weights", expected=f"{_INDEX} or {_SINGLE}", got=got, remedy=remedy
    )
