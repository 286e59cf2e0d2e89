"""From files to a model whose weights are in the kernels' layout, one tensor at a time.

No second copy of the weights exists at any moment: a tensor is packed as soon as the rows it
shares a matrix with are there, and then its source is released.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .. import ops
from ..config import MiMoConfig
from ..errors import CheckpointError, UnsupportedError
from ..nn import MiMoForCausalLM, Weight
from ..nn.weight import Part
from ..ops import PackedWeight
from .gguf import GGUFCheckpoint
from .safetensors_reader import SafetensorsReader

__all__ = ["load_model"]

_FORMATS = {torch.bfloat16: "bf16", torch.float32: "f32"}


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    weight_format: str | None = None,
    window_keys: int | None = None,
) -> MiMoForCausalLM:
    """See ``MiMoForCausalLM.from_pretrained``."""
    if dtype not in _FORMATS:
        raise UnsupportedError("from_pretrained", [f"dtype {dtype}; bfloat16 and float32 are"])
    path = Path(path)
    if path.suffix == ".gguf":
        checkpoint = GGUFCheckpoint.open(path)
        config = MiMoConfig.from_dict(checkpoint.config, window_keys=window_keys)
        tensors = checkpoint.items(dtype=dtype)
    else:
        config = MiMoConfig.from_pretrained(path, window_keys=window_keys)
        tensors = SafetensorsReader(path).stream(config)
        config = config.unquantized()
    with torch.device("meta"):
        model = MiMoForCausalLM(config).to(dtype)
    _Filler(model, dtype, weight_format or _FORMATS[dtype]).fill(tensors, str(path))
    return model.requires_grad_(False)


class _Filler:
    """Hands every tensor to its place in a model built on the meta device."""

    def __init__(self, model: MiMoForCausalLM, dtype: torch.dtype, format: str) -> None:
        self.dtype, self.format = dtype, format
        self.parts: dict[str, tuple[Weight, Part]] = {}
        self.plain: dict[str, tuple[torch.nn.Module, str]] = {}
        self.waiting: dict[tuple[Weight, int | None], dict[Part, Tensor]] = {}
        for prefix, module in model.named_modules():
            if isinstance(module, Weight):
                parent = prefix.rpartition(".")[0]
                for part in module.parts():
                    self.parts[f"{parent}.{part.hub_name}".lstrip(".")] = (module, part)
                continue
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, _ in own:
                self.plain[f"{prefix}.{name}".lstrip(".")] = (module, name)

    def fill(self, tensors: Iterator[tuple[str, Tensor]], where: str) -> None:
        for name, tensor in tensors:
            if name in self.parts:
                self._take_part(*self.parts.pop(name), tensor)
            elif name in self.plain:
                _set(*self.plain.pop(name), tensor)
            else:
                raise CheckpointError(where, name, expected="a tensor of the model", got="another")
        missing = [*self.parts, *self.plain]
        if missing:
            raise CheckpointError(
                where, missing[0], expected="a tensor of that name", got="none", remedy=""
            )

    def _take_part(self, module: Weight, part: Part, tensor: Tensor) -> None:
        key = (module, part.expert)
        got = self.waiting.setdefault(key, {})
        # The source may be a view of a file whose pages go away; a part that waits is copied.
        alone = len(module.rows) == 1
        dtype = module.weight.dtype
        got[part] = tensor.to(dtype) if alone else tensor.to(dtype, copy=True)
        if len(got) < len(module.rows):
            return
        del self.waiting[key]
        ordered = [got[p] for p in sorted(got, key=lambda p: p.start)]
        rows = ordered[0] if alone else torch.cat(ordered)
        format = _FORMATS[dtype] if dtype == torch.float32 else self.format
        if part.expert is None:
            module.replace(ops.pack(rows, format=format))
            return
        if not module.packed:
            shape = (module.experts, rows.shape[0], rows.shape[1])
            module.replace(PackedWeight.empty(shape, format=format))
        module.weight.write(part.expert, rows)


def _set(module: torch.nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    new = tensor.to(old.dtype, copy=True)
    if name in module._parameters:
        module._parameters[name] = torch.nn.Parameter(new, requires_grad=False)
    else:
        module._buffers[name] = new
