"""Checkpoints whose weights are in the kernels' order already: they load by mapping the file.

A directory holds, beside the ``config.json`` of the model and the tokenizer's files,

    model-packed.safetensors   every linear weight as one U8 tensor, its packed bytes, under the
                               name of its module; norms, sinks, biases and embeddings as they are
    packed.json                {"version": 1, "dtype": "bfloat16", "weights": {MODULE: ENTRY, ..}},
                               for instance "model.layers.0.self_attn.qkv":
                               {"format": "int4_32", "shape": [960, 576]}

Data begin at a multiple of 4096 bytes. The order of the bytes of a format is that of
csrc/gemm/packed.h and coded.h; a change of one is a new version.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..config import MiMoConfig
from ..errors import CheckpointError, UnsupportedError
from ..nn import MiMoForCausalLM, Weight
from ..ops import PackedWeight
from ..ops._packed import FORMATS
from .files import read_json, replace_files
from .formats import PACKED_INDEX as _INDEX
from .formats import WeightFormat
from .mapped_file import MappedFile
from .safetensors_header import StoredTensor, read_header

__all__ = ["PackedWriter", "load_packed", "packed_formats"]

_DATA, _VERSION = "model-packed.safetensors", 1
_DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64"}
_PAGE = 4096


def packed_formats(path: Path) -> dict[str, str]:
    """The format of each weight by the name of its module. Raises CheckpointError."""
    weights = read_json(path / _INDEX).get("weights")
    entries = weights.items() if isinstance(weights, dict) else ()
    formats = {name: e.get("format") for name, e in entries if isinstance(e, dict)}
    if not formats or any(format not in FORMATS for format in formats.values()):
        expected = f"an object of weights in one of {', '.join(FORMATS)}"
        raise CheckpointError(
            str(path / _INDEX), "weights", expected=expected, got=repr(weights)[:80]
        )
    return formats


class PackedWriter:
    """Writes such a directory, one weight after the other, whole or not at all.

    with PackedWriter(directory, model, dtype=torch.bfloat16) as writer:
        writer.add_weight(module)  # each Weight of the model, in any order
        writer.finish(config, copied_files)  # without it nothing appears
    """

    def __init__(self, directory: Path, model: nn.Module, *, dtype: torch.dtype) -> None:
        self.directory, self.model, self.dtype = directory, model, dtype
        self.names = {module: name for name, module in model.named_modules()}
        self.weights: dict[str, dict[str, Any]] = {}
        self.header: dict[str, dict[str, Any]] = {}
        self.written = 0

    def __enter__(self) -> "PackedWriter":
        self._existed = self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.stage = Path(tempfile.mkdtemp(prefix=".converting-", dir=self.directory))
        self._stream: BinaryIO = (self.stage / _DATA).open("wb")
        # Room for the header, which is known last: two numbers of at most 15 digits per tensor.
        tensors = [*self._plain(), *(n for m, n in self.names.items() if isinstance(m, Weight))]
        room = sum(len(name) + 120 for name in tensors) + 100
        self._data = -(-room // _PAGE) * _PAGE
        self._stream.seek(self._data)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        shutil.rmtree(self.stage, ignore_errors=True)
        if not self._existed and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def add_weight(self, module: Weight) -> None:
        """The packed bytes of ``module``, which may be released afterwards."""
        name, packed = self.names[module], module.weight
        self._add(name, packed.storage[: packed.nbytes])
        self.weights[name] = {"format": packed.format, "shape": [*packed.shape]}

    def finish(self, config: MiMoConfig, files: Sequence[Path] = ()) -> None:
        """Everything that is no Weight, the index, and copies of ``files``; then all at once."""
        for name, tensor in self._plain().items():
            self._add(name, tensor.detach())
        text = json.dumps(self.header).encode()
        self._stream.seek(0)
        self._stream.write((self._data - 8).to_bytes(8, "little") + text.ljust(self._data - 8))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        index = {
            "version": _VERSION,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights": self.weights,
        }
        for name, content in ((_INDEX, index), ("config.json", config.to_dict())):
            with (self.stage / name).open("w", encoding="utf-8") as stream:
                stream.write(json.dumps(content, indent=1) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        staged = {name: self.stage / name for name in (_DATA, "config.json", _INDEX)}
        for file in files:
            shutil.copyfile(file, self.stage / file.name)
            staged[file.name] = self.stage / file.name
        replace_files(self.directory, staged, stale=(), key=_INDEX)

    def _plain(self) -> dict[str, Tensor]:
        found = {}
        for prefix, module in self.model.named_modules():
            if not isinstance(module, Weight):
                own = [*module._parameters.items(), *module._buffers.items()]
                found |= {f"{prefix}.{name}": t for name, t in own if t is not None}
        return found

    def _add(self, name: str, tensor: Tensor) -> None:
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        self._stream.write(memoryview(raw))
        end = self.written + raw.nbytes
        self.header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": [*tensor.shape],
            "data_offsets": [self.written, end],
        }
        self.written = end


def load_packed(
    path: Path,
    *,
    dtype: torch.dtype,
    weight_format: WeightFormat,
    window_keys: int | None,
) -> MiMoForCausalLM:
    """The model of such a directory; its weights stay in the file until they are read.

    Raises CheckpointError for damaged or contradictory files, UnsupportedError for a dtype or
    format other than the written one.
    """
    index = read_json(path / _INDEX)
    config = MiMoConfig.from_pretrained(path, window_keys=window_keys)
    if index.get("version") != _VERSION:
        got = f"version {index.get('version')!r}"
        raise UnsupportedError(str(path), [f"{got} of packed.json; {_VERSION} is read"],
                               remedy="Convert the original checkpoint again.")  # fmt: skip
    written = str(index.get("dtype"))
    if written != str(dtype).removeprefix("torch.") or weight_format not in (None, "stored"):
        reason = f"the weights are packed for {written}, in formats of their own"
        raise UnsupportedError(str(path), [reason], remedy="Convert the original checkpoint again.")
    with torch.device("meta"):
        model = MiMoForCausalLM(config.unquantized()).to(dtype)
    stored = {tensor.name: tensor for tensor in read_header(path / _DATA)}
    weights = index.get("weights")
    if not isinstance(weights, dict):
        raise CheckpointError(
            str(path / _INDEX), "weights", expected="an object", got=repr(weights)
        )
    mapped = MappedFile(path / _DATA)
    for prefix, module in list(model.named_modules()):
        if isinstance(module, Weight):
            packed = _packed(path, prefix, module, weights.get(prefix), stored.get(prefix), mapped)
            module.replace(packed)
            continue
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    key = f"{prefix}.{name}"
                    held[name] = _plain(path, key, tensor, stored.get(key), mapped)
    return model


def _packed(
    path: Path,
    name: str,
    module: Weight,
    entry: Any,
    stored: StoredTensor | None,
    mapped: MappedFile,
) -> PackedWeight:
    wanted = [*module.weight.shape]
    format = entry.get("format") if isinstance(entry, dict) else None
    if format not in FORMATS or entry.get("shape") != wanted or stored is None:
        got = "no such tensor" if stored is None else repr(entry)
        expected = f"a weight {wanted} in one of {', '.join(FORMATS)}"
        raise CheckpointError(str(path), name, expected=expected, got=got)
    packed = PackedWeight(torch.empty(0), format=format, shape=torch.Size(wanted))
    if stored.dtype != "U8" or stored.nbytes != packed.nbytes:
        got = f"{stored.dtype} of {stored.nbytes} bytes"
        raise CheckpointError(str(path), name, expected=f"U8 of {packed.nbytes} bytes", got=got)
    packed.storage = mapped.view(stored).view(-1)
    return packed


def _plain(
    path: Path, name: str, like: Tensor, stored: StoredTensor | None, mapped: MappedFile
) -> Tensor:
    if stored is None or stored.shape != tuple(like.shape) or stored.dtype != _DTYPES[like.dtype]:
        got = "no such tensor" if stored is None else f"{stored.dtype} {list(stored.shape)}"
        expected = f"{_DTYPES[like.dtype]} {list(like.shape)}"
        raise CheckpointError(str(path), name, expected=expected, got=got)
    tensor = mapped.view(stored)
    return nn.Parameter(tensor, requires_grad=False) if isinstance(like, nn.Parameter) else tensor
