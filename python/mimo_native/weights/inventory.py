"""What a checkpoint holds, from headers alone: its config and the stored bytes of every tensor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import MiMoConfig
from .formats import is_packed, packed_bytes
from .gguf import GGUFCheckpoint
from .layout import TensorSpec, expected_tensors
from .safetensors_reader import SafetensorsReader, has_weights

__all__ = ["Inventory", "take_inventory"]

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
_SCALES = ("_scale_inv", "_scale")


@dataclass(frozen=True)
class Inventory:
    """``stored`` maps the model's tensors to their bytes on disk, scales included."""

    source: str
    config: MiMoConfig
    stored: Mapping[str, int]
    unused_bytes: int = 0  # of tensors that a language model does not load


def take_inventory(source: MiMoConfig | str | Path) -> Inventory:
    """Looks at a config, a ``config.json``, a checkpoint directory or a ``.gguf`` file.

    Without weights at hand the bytes are those of the format that the config describes. Raises
    ``CheckpointError`` or ``UnsupportedError`` as the readers do.
    """
    if isinstance(source, MiMoConfig):
        return Inventory("config", source, _described(source))
    path = Path(source)
    if path.suffix == ".gguf":
        gguf = GGUFCheckpoint.open(path)
        held = {name: tensor.nbytes for name, tensor in gguf.tensors.items()}
        return Inventory(str(path), MiMoConfig.from_dict(gguf.config), held)
    config = MiMoConfig.from_pretrained(path)
    directory = path if path.is_dir() else path.parent
    if is_packed(directory):
        return Inventory(str(path), config, _packed(directory, config))
    if not has_weights(directory):
        return Inventory(str(path), config, _described(config))
    stored = dict.fromkeys(expected_tensors(config), 0)
    unused = 0
    for tensor in SafetensorsReader(directory).tensors.values():
        name = tensor.name
        for suffix in _SCALES:
            name = name.removesuffix(suffix)
        if name in stored:
            stored[name] += tensor.nbytes
        else:
            unused += tensor.nbytes
    return Inventory(str(path), config, stored, unused)


def _packed(directory: Path, config: MiMoConfig) -> dict[str, int]:
    """Bytes by hub name where the weights are packed, in the format of the matrix they are in."""
    from ..nn import MiMoForCausalLM, Weight
    from .packed_checkpoint import packed_formats

    formats, stored = packed_formats(directory), _described(config.unquantized())
    with torch.device("meta"):
        model = MiMoForCausalLM(config.unquantized())
    for prefix, module in model.named_modules():
        for part in module.parts() if isinstance(module, Weight) else ():
            name = f"{prefix.rpartition('.')[0]}.{part.hub_name}".lstrip(".")
            shape = (part.stop - part.start, module.in_features)
            stored[name] = packed_bytes(shape, formats.get(prefix, "f32"))
    return stored


def _described(config: MiMoConfig) -> dict[str, int]:
    return {name: _bytes(config, spec) for name, spec in expected_tensors(config).items()}


def _bytes(config: MiMoConfig, spec: TensorSpec) -> int:
    """Bytes of a tensor in the format of ``config``, its block scales included."""
    values, quantization = math.prod(spec.shape), config.quantization
    if spec.dtype_class == "float32":
        # The correction bias stays float32 where the router's matrix is stored in bfloat16.
        return values * (4 if len(spec.shape) == 1 else _DTYPE_BYTES[config.moe_router_dtype])
    if spec.dtype_class == "float" or quantization is None:
        return values * _DTYPE_BYTES[config.torch_dtype]
    if spec.component == "experts" and quantization.store_dtype == "mxfp4":
        return values // 2 + values // quantization.mxfp4_block_size
    rows, columns = (
        -(-n // block) for n, block in zip(spec.shape, quantization.weight_block_size, strict=True)
    )
    return values + 4 * rows * columns
