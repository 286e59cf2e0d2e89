"""From files to a model whose weights are in the kernels' layout, one tensor at a time.

No second copy of the weights exists at any moment: a tensor is packed as soon as the rows it
shares a matrix with are there, and then its source is released.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import MiMoConfig
from ..errors import CheckpointError, UnsupportedError
from ..nn import MiMoForCausalLM, Weight
from ..nn.weight import Part
from ..ops import PackedWeight
from ..ops._coded import Codes, dequantize, stored_format
from ..ops._packed import pack_any
from .formats import PLAIN, STORED, WeightFormat, is_packed, resolve_formats
from .gguf import GGUFCheckpoint
from .mtp_heads import heads_config, stream_heads
from .packed_checkpoint import load_packed
from .safetensors_reader import SafetensorsReader

__all__ = ["Source", "fill", "load_model", "open_source"]


@dataclass(frozen=True)
class Source:
    """A checkpoint that is about to be read: its checked tensors as a stream under hub names."""

    where: str
    config: MiMoConfig
    tensors: Iterator[tuple[str, Tensor | Codes]]


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    weight_format: WeightFormat = None,
    window_keys: int | None = None,
    mtp: str | Path | None = None,
) -> MiMoForCausalLM:
    """See ``MiMoForCausalLM.from_pretrained``."""
    if dtype not in PLAIN:
        raise UnsupportedError("from_pretrained", [f"dtype {dtype}; bfloat16 and float32 are"])
    path = Path(path)
    if is_packed(path):
        if mtp is not None:
            raise UnsupportedError(
                str(path), ["MTP heads join a checkpoint before it is packed"],
                remedy="Convert the original with --mtp.",
            )  # fmt: skip
        return load_packed(
            path, dtype=dtype, weight_format=weight_format, window_keys=window_keys
        ).requires_grad_(False)
    source = open_source(path, dtype=dtype, window_keys=window_keys, mtp=mtp)
    if mtp is not None and weight_format is None:
        weight_format = {"mtp": STORED}  # drafts need no more bits than the heads' file has
    with torch.device("meta"):
        model = MiMoForCausalLM(source.config).to(dtype)
    fill(model, source, weight_format, dtype)
    return model.requires_grad_(False)


def open_source(
    path: Path,
    *,
    dtype: torch.dtype,
    window_keys: int | None = None,
    mtp: str | Path | None = None,
) -> Source:
    """A checkpoint directory or a GGUF file, checked, and the heads in the directory ``mtp``.

    Raises what its reader raises.
    """
    tensors: Iterator[tuple[str, Tensor | Codes]]
    if path.suffix == ".gguf":
        checkpoint = GGUFCheckpoint.open(path)
        config = MiMoConfig.from_dict(checkpoint.config, window_keys=window_keys)
        tensors = checkpoint.items(dtype=dtype, codes=True)
    else:
        config = MiMoConfig.from_pretrained(path, window_keys=window_keys)
        tensors, config = SafetensorsReader(path).stream(config), config.unquantized()
    if mtp is not None:
        config = heads_config(Path(mtp), config)
        tensors = stream_heads(Path(mtp), config, tensors)
    return Source(str(path), config, tensors)


def fill(
    model: MiMoForCausalLM,
    source: Source,
    weight_format: WeightFormat,
    dtype: torch.dtype,
    *,
    done: Callable[[Weight], None] = lambda weight: None,
) -> None:
    """Hands every tensor to its place in a model built on the meta device.

    ``done`` is called for each Weight once it is whole. Raises CheckpointError for a tensor too
    many or too few, UnsupportedError for a format.
    """
    filler = _Filler(model, resolve_formats(source.config, weight_format, dtype), dtype, done)
    filler.fill(source)


class _Filler:
    def __init__(
        self,
        model: MiMoForCausalLM,
        formats: dict[str, str],
        dtype: torch.dtype,
        done: Callable[[Weight], None],
    ) -> None:
        self.formats, self.dtype, self.done = formats, dtype, done
        self.parts: dict[str, tuple[Weight, Part]] = {}
        self.plain: dict[str, tuple[torch.nn.Module, str]] = {}
        self.waiting: dict[tuple[Weight, int | None], dict[Part, Tensor | Codes]] = {}
        self.experts_left: dict[Weight, int] = {}
        for prefix, module in model.named_modules():
            if isinstance(module, Weight):
                parent = prefix.rpartition(".")[0]
                for part in module.parts():
                    self.parts[f"{parent}.{part.hub_name}".lstrip(".")] = (module, part)
                continue
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, _ in own:
                self.plain[f"{prefix}.{name}".lstrip(".")] = (module, name)

    def fill(self, source: Source) -> None:
        for name, tensor in source.tensors:
            if name in self.parts:
                self._take_part(name, *self.parts.pop(name), tensor)
            elif name in self.plain:
                set_plain(*self.plain.pop(name), tensor)
            else:
                raise CheckpointError(
                    source.where, name, expected="a tensor of the model", got="another"
                )
        missing = [*self.parts, *self.plain]
        if missing:
            raise CheckpointError(
                source.where, missing[0], expected="a tensor of that name", got="none", remedy=""
            )

    def _take_part(self, name: str, module: Weight, part: Part, tensor: Tensor | Codes) -> None:
        key = (module, part.expert)
        got = self.waiting.setdefault(key, {})
        # The source may be a view of a file whose pages go away; a part that waits is copied.
        alone = len(module.rows) == 1
        got[part] = tensor if alone else _copied(tensor, module.weight.dtype)
        if len(got) < len(module.rows):
            return
        del self.waiting[key]
        parts = [got[p] for p in sorted(got, key=lambda p: p.start)]
        format = self.formats[name]
        held = {p.format if isinstance(p, Codes) else None for p in parts}
        if format == STORED:
            format = held.pop() if len(held) == 1 else None
            # Parts that are stored in different ways share the format of values.
            format, held = format or PLAIN[self.dtype], {format}
        if held == {stored_format(format)}:
            rows = Codes.cat(parts) if len(parts) > 1 else parts[0]
        else:
            wide = torch.float32 if format not in PLAIN.values() else None
            values = [_values(p, wide or module.weight.dtype) for p in parts]
            rows = torch.cat(values) if len(values) > 1 else values[0]
        if part.expert is None:
            module.replace(pack_any(rows, format=format))
            self.done(module)
            return
        if not module.packed:
            module.replace(PackedWeight.empty((module.experts, *rows.shape), format=format))
            self.experts_left[module] = module.experts
        elif module.weight.format != format:
            raise UnsupportedError(
                "weight_format",
                [f"{name} is stored as {format}, experts before it as {module.weight.format}"],
                remedy="Ask for one format for the experts.",
            )
        module.weight.write(part.expert, rows)
        self.experts_left[module] -= 1
        if self.experts_left[module] == 0:
            self.done(module)


def _copied(tensor: Tensor | Codes, dtype: torch.dtype) -> Tensor | Codes:
    if isinstance(tensor, Codes):
        return tensor.map(torch.clone)
    return tensor.to(dtype, copy=True)


def _values(part: Tensor | Codes, dtype: torch.dtype) -> Tensor:
    return (dequantize(part) if isinstance(part, Codes) else part).to(dtype)


def set_plain(module: torch.nn.Module, name: str, tensor: Tensor | Codes) -> None:
    """Make ``tensor`` the module's parameter or buffer, in the dtype that it had."""
    dtype = getattr(module, name).dtype
    coded = isinstance(tensor, Codes)
    new = _values(tensor, dtype) if coded else tensor.to(dtype, copy=True)
    if name in module._parameters:
        module._parameters[name] = torch.nn.Parameter(new, requires_grad=False)
    else:
        module._buffers[name] = new
