"""Do the stored tensors make up the model of the config? Asked before anything is built."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ..config import MiMoConfig
from ..errors import CheckpointError, UnsupportedError
from .coded import check_coded, coded_format, weight_of_scale
from .layout import TensorSpec, expected_tensors
from .safetensors_header import StoredTensor

__all__ = ["check_tensors", "wanted"]

_FLOATS = ("BF16", "F16", "F32", "F64")
# Parts of an omni checkpoint that a language model lacks, and buffers that old exporters wrote.
_SKIPPED = re.compile(
    r"^(model\.)?(visual|vision_model|vision_tower|audio_\w+)\.|speech_embeddings|rotary_emb\.inv_freq$"
)
_MTP = re.compile(r"^model\.mtp\.layers\.(\d+)\.")
_FORMATS = {
    "F8_E5M2": "8-bit float (F8_E5M2)",
    "I32": "packed integers (I32, as GPTQ and AWQ write them)",
    "I8": "8-bit integers (I8)",
    "F4": "4-bit float (F4)",
}


def _skipped(config: MiMoConfig, name: str) -> bool:
    if config.tie_word_embeddings and name == "lm_head.weight":
        return True
    block = _MTP.match(name)
    return bool(_SKIPPED.search(name)) or (
        block is not None and int(block[1]) >= config.num_mtp_layers
    )


def wanted(config: MiMoConfig, stored: Iterable[str]) -> list[str]:
    """The stored names that belong to the model of ``config``."""
    return [name for name in stored if not _skipped(config, name)]


def check_tensors(where: str, config: MiMoConfig, stored: Mapping[str, StoredTensor]) -> None:
    """See ``SafetensorsReader.validate``."""
    names = [n for n in wanted(config, stored) if weight_of_scale(n, stored) is None]
    _refuse_formats(where, [stored[name] for name in names])
    expected = expected_tensors(config)
    missing = [name for name in expected if name not in stored]
    unexpected = [name for name in names if name not in expected]
    if missing or unexpected:
        found = [f"no {_some(missing)}"] if missing else []
        found += [f"also {_some(unexpected)}"] if unexpected else []
        raise CheckpointError(
            where,
            "tensors",
            expected="exactly those that config.json implies",
            got=", ".join(found),
            remedy=_names_remedy(missing, unexpected),
        )
    for name, spec in expected.items():
        if coded_format(stored[name]) is None:
            _check_shape(where, name, spec, stored[name])
        else:
            check_coded(where, name, spec, stored)


def _refuse_formats(where: str, tensors: Sequence[StoredTensor]) -> None:
    by_dtype: dict[str, list[str]] = {}
    for tensor in tensors:
        if tensor.dtype not in _FLOATS and coded_format(tensor) is None:
            by_dtype.setdefault(tensor.dtype, []).append(tensor.name)
    if by_dtype:
        reasons = [
            f"{_FORMATS.get(dtype, dtype)} in {_some(names)}" for dtype, names in by_dtype.items()
        ]
        remedy = "BF16, F16, F32, F64, block-scaled F8_E4M3 and mxfp4 load; convert the checkpoint."
        raise UnsupportedError(where, reasons, remedy=remedy)


def _names_remedy(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    if any("qkv_proj" in name for name in unexpected):
        return 'For fused projections config.json says "attention_projection_layout": "fused_qkv".'
    if any("attention_sink_bias" in name for name in unexpected):
        return "For sinks config.json says add_swa_attention_sink_bias or its full twin."
    if missing and all(_MTP.match(name) for name in missing):
        return "Fetch model_mtp.safetensors, or ask for fewer MTP blocks (num_mtp_layers=...)."
    return "Fetch the missing shards, or correct config.json."


def _check_shape(where: str, name: str, spec: TensorSpec, stored: StoredTensor) -> None:
    if stored.shape != spec.shape:
        raise CheckpointError(
            where,
            name,
            expected=f"shape {list(spec.shape)} from config.json",
            got=f"{list(stored.shape)} in {stored.file.name}",
            remedy="config.json and the weights are of different models.",
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
