"""Any readable checkpoint to one in the kernels' layout, one weight in memory at a time."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, UnsupportedError
from ..nn import MiMoForCausalLM, Weight
from .formats import PLAIN, WeightFormat, is_packed
from .gguf_file import GGUFFile
from .load import fill, open_source
from .packed_checkpoint import PackedWriter

__all__ = ["ConvertReport", "convert"]

# What a tokenizer may consist of, and how a model wants to be sampled.
_BESIDE = ("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
           "chat_template*", "generation_config.json")  # fmt: skip


@dataclass(frozen=True)
class ConvertReport:
    """What was written: bytes of the weights by format."""

    target: str
    weights: int
    weight_bytes: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = ", ".join(f"{size / 1e6:.1f} MB {name}" for name, size in self.weight_bytes.items())
        return f"{self.target}: {self.weights} weights, {sizes}"


def convert(
    source: str | Path,
    target: str | Path,
    *,
    weight_format: WeightFormat,
    dtype: torch.dtype = torch.bfloat16,
    mtp: str | Path | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> ConvertReport:
    """Write ``source`` as a packed checkpoint into the directory ``target``, whole or not at all.

    weight_format and mtp as in ``MiMoForCausalLM.from_pretrained``; ``progress`` is told a weight's
    name, how many are done and of how many. Raises CheckpointError or UnsupportedError as the
    readers do, and for a target that holds another checkpoint.
    """
    source, target = Path(source), Path(target)
    if dtype not in PLAIN:
        raise UnsupportedError("convert", [f"dtype {dtype}; bfloat16 and float32 are served"])
    if is_packed(source):
        raise UnsupportedError(str(source), ["it is packed already"], remedy="Take the original.")
    if target.is_dir() and any(target.glob("*")) and not is_packed(target):
        raise CheckpointError(
            str(target), "target", expected="a new directory, or a packed checkpoint",
            got="other files", remedy="Name another directory.",
        )  # fmt: skip
    read = open_source(source, dtype=dtype, mtp=mtp)
    with torch.device("meta"):
        model = MiMoForCausalLM(read.config).to(dtype)
    weights = [module for module in model.modules() if isinstance(module, Weight)]
    sizes: dict[str, int] = {}
    try:
        with PackedWriter(target, model, dtype=dtype) as writer:
            done = 0

            def write(module: Weight) -> None:
                nonlocal done
                writer.add_weight(module)
                packed, done = module.weight, done + 1
                sizes[packed.format] = sizes.get(packed.format, 0) + packed.nbytes
                progress(writer.names[module], done, len(weights))
                # Its bytes are in the file; an empty one keeps the place.
                module.replace(nn.Parameter(torch.empty(packed.shape, device="meta")))

            fill(model, read, weight_format, dtype, done=write)
            writer.finish(read.config, _beside(source, writer.stage))
    except OSError as error:
        raise CheckpointError(
            str(target), "file", expected="a place that can be written", got=str(error),
            remedy="Free disk space or choose another directory; nothing there was changed.",
        ) from error  # fmt: skip
    return ConvertReport(str(target), len(weights), sizes)


def _beside(source: Path, stage: Path) -> list[Path]:
    if source.suffix == ".gguf":
        file = stage / "metadata" / "tokenizer.gguf"
        file.parent.mkdir()
        GGUFFile.read(source).copy_metadata(file)
        return [file]
    return sorted({file for pattern in _BESIDE for file in source.glob(pattern) if file.is_file()})
