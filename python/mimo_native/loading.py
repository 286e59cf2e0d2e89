"""From what a user calls a model to a model that answers."""

from collections.abc import Mapping
from pathlib import Path

import torch

from .nn import MiMoForCausalLM
from .text import Tokenizer
from .weights.gguf_file import GGUFFile
from .weights.resolve import resolve_model

__all__ = ["load"]


def load(
    spec: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    weight_format: str | Mapping[str, str] | None = None,
    window_keys: int | None = None,
    mtp: str | Path | None = None,
) -> tuple[MiMoForCausalLM, Tokenizer]:
    """The model and tokenizer of ``spec``, fetched first if need be.

    spec: None or "smollm2", "nano", a FILE.gguf, a directory with config.json, or a hub id. mtp: a
    directory with MTP heads for a model that has none. The tokenizer is ``model.tokenizer`` too.
    Options as in ``MiMoForCausalLM.from_pretrained``; raises CheckpointError or UnsupportedError.
    """
    path = resolve_model(spec)
    # The tokenizer first: it is quick, and a model without one is no use here.
    if path.suffix == ".gguf":
        tokenizer = Tokenizer.from_gguf(GGUFFile.read(path))
    else:
        tokenizer = Tokenizer.from_pretrained(path)
    model = MiMoForCausalLM.from_pretrained(
        path, dtype=dtype, weight_format=weight_format, window_keys=window_keys, mtp=mtp
    )
    model.tokenizer = tokenizer
    return model, tokenizer
