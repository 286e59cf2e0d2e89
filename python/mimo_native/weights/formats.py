"""Which format each weight of a model is held in: one for all, or one per component."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..config import MiMoConfig
from ..errors import ShapeError, UnsupportedError
from ..ops._packed import FORMATS, PackedWeight
from .layout import expected_tensors

__all__ = [
    "COMPONENTS",
    "PACKED_INDEX",
    "PLAIN",
    "STORED",
    "WeightFormat",
    "is_packed",
    "packed_bytes",
    "resolve_formats",
]

PLAIN = {torch.bfloat16: "bf16", torch.float32: "f32"}
STORED = "stored"
PACKED_INDEX = "packed.json"
COMPONENTS = ("attention", "dense", "experts", "head", "mtp")

# A format for all weights, or for some of COMPONENTS; None: that of the model's dtype. "stored":
# weights that a checkpoint holds as codes stay these codes, the others are of the model's dtype.
WeightFormat = str | Mapping[str, str] | None


def is_packed(path: Path) -> bool:
    """Whether ``path`` is a directory whose weights are in the kernels' order already."""
    return (path / PACKED_INDEX).is_file()


def packed_bytes(shape: Sequence[int], format: str) -> int:
    """Bytes of a weight [.., N, K] in ``format``; a packed one is padded to 32 outputs besides."""
    *rows, inputs = shape
    panel = PackedWeight(torch.empty(0), format=format, shape=torch.Size((32, inputs)))
    return math.prod(rows) * panel.nbytes // 32


def resolve_formats(
    config: MiMoConfig, weight_format: WeightFormat, dtype: torch.dtype
) -> dict[str, str]:
    """The format of every linear weight by its hub name, possibly ``STORED``.

    The router is float32 whatever is asked for; embeddings of their own and norms are no linear
    weights. Raises UnsupportedError for an unknown format or component.
    """
    if dtype not in PLAIN:
        raise ShapeError("pack", "dtype", expected="bfloat16 or float32", got=str(dtype))
    asked = {} if weight_format is None else weight_format
    if isinstance(asked, str):
        asked = dict.fromkeys(COMPONENTS, asked)
    reasons = [f"no component {name!r}" for name in asked if name not in COMPONENTS]
    reasons += [f"no format {f!r}" for f in asked.values() if f not in (*FORMATS, STORED)]
    if reasons:
        remedy = f"Components are {', '.join(COMPONENTS)}; formats {', '.join(FORMATS)}, {STORED}."
        raise UnsupportedError("weight_format", sorted(set(reasons)), remedy=remedy)
    formats = {}
    for name, spec in expected_tensors(config).items():
        # A tied head is known as the embedding.
        component = "head" if spec.component == "embedding" else spec.component
        formats[name] = asked.get(component, PLAIN[dtype])
        if spec.dtype_class == "float32":
            formats[name] = "f32"
    return formats
