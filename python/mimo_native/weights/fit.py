"""Does a model fit into this machine, and how fast can it decode? Asked before loading anything.

print(fit("path/to/checkpoint", context=32768, bandwidth=40e9))
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..cache.formats import FORMATS, SCALE_BYTES, KvFormat
from ..cache.storage import BLOCK
from ..config import LayerConfig, MiMoConfig
from ..errors import ShapeError
from ..ops._coded import CODED
from .formats import STORED, WeightFormat, packed_bytes, resolve_formats
from .inventory import Inventory, take_inventory
from .layout import expected_tensors

__all__ = ["FitReport", "fit"]

_SIZES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class FitReport:
    """Bytes of a model's parts; see ``fit``. Weights and parameters are split by component."""

    source: str
    held_as: str  # "stored", or the dtype that all float weights are loaded as
    parameters: Mapping[str, int]
    weight_bytes: Mapping[str, int]
    unused_bytes: int  # in the files, but not loaded
    global_kv_bytes_per_token: int
    ring_bytes: int  # sliding layers and MTP blocks of one sequence, whatever its length
    context: int  # tokens, rounded up to whole key blocks
    batch: int
    decode_weight_bytes: int  # read for one token of one sequence; experts: only the active ones
    decode_kv_bytes: int  # at the end of ``context`` tokens
    ram_bytes: int
    bandwidth: float | None  # bytes/s

    @property
    def kv_bytes_per_1k_tokens(self) -> int:
        """What 1,024 more tokens of one sequence cost."""
        return 1024 * self.global_kv_bytes_per_token

    @property
    def cache_bytes(self) -> int:
        """All caches of ``batch`` sequences of ``context`` tokens."""
        return self.batch * (self.context * self.global_kv_bytes_per_token + self.ring_bytes)

    @property
    def total_bytes(self) -> int:
        return sum(self.weight_bytes.values()) + self.cache_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.ram_bytes

    @property
    def decode_bytes(self) -> int:
        """Bytes that one decoded token must read from memory."""
        return self.decode_weight_bytes + self.decode_kv_bytes

    @property
    def tokens_per_second(self) -> float | None:
        """The most that ``bandwidth`` allows one sequence, decoding without speculation."""
        return None if self.bandwidth is None else self.bandwidth / self.decode_bytes

    def to_dict(self) -> dict[str, Any]:
        """Fields and derived numbers, ready for JSON."""
        names = ("kv_bytes_per_1k_tokens", "cache_bytes", "total_bytes", "fits", "decode_bytes")
        derived = {name: getattr(self, name) for name in (*names, "tokens_per_second")}
        return asdict(self) | derived

    def __str__(self) -> str:
        rows = [
            (name, f"{_gb(size)}  {self.parameters[name] / 1e9:9.3f} B parameters")
            for name, size in self.weight_bytes.items()
        ]
        rows += [
            ("weights", _gb(sum(self.weight_bytes.values()))),
            ("KV per 1k tokens", _gb(self.kv_bytes_per_1k_tokens)),
            ("rings", _gb(self.ring_bytes)),
            (f"caches, {self.batch} x {self.context}", _gb(self.cache_bytes)),
            ("total", f"{_gb(self.total_bytes)}  {'fits' if self.fits else 'does not fit'}"),
            ("available memory", _gb(self.ram_bytes)),
            ("read per token, at most", _gb(self.decode_bytes)),
        ]
        if self.tokens_per_second is not None:
            rows.append(("decoding, at best", f"{self.tokens_per_second:12.1f} tokens/s"))
        return "\n".join([self.source, *(f"  {name:<24} {text}" for name, text in rows)])


def fit(
    source: MiMoConfig | str | Path | Inventory,
    *,
    dtype: Literal["bfloat16", "float32"] | None = None,
    weight_format: WeightFormat = None,
    context: int = 4096,
    batch: int = 1,
    ram_bytes: int | None = None,
    bandwidth: float | None = None,
    kv_format: KvFormat | None = None,
) -> FitReport:
    """Counts the bytes of ``source``: a config, ``config.json``, checkpoint directory or ``.gguf``.

    Reads headers only. ``dtype`` is what the weights are loaded as (the router stays float32); None
    counts them as stored. ``weight_format`` is that of the linear weights, one for all or some
    components' own, as in ``from_pretrained``; "stored" counts them as they are. ``kv_format`` is
    how global layers store keys and values; by default in the activations' dtype. ``ram_bytes``
    defaults to the memory available now; ``bandwidth``, in bytes/s, bounds the decoding speed.
    Raises ``ShapeError`` for an argument out of range, else what the readers raise.
    """
    for name, value in (("context", context), ("batch", batch)):
        if value < 1:
            raise ShapeError("fit", name, expected=">= 1", got=str(value))
    if dtype not in (None, *_SIZES):
        raise ShapeError("fit", "dtype", expected="bfloat16, float32 or None", got=repr(dtype))
    if kv_format not in (None, *FORMATS) or (kv_format and dtype == "float32"):
        expected = f"None{'' if dtype == 'float32' else ', ' + ', '.join(FORMATS)}"
        raise ShapeError("fit", "kv_format", expected=expected, got=repr(kv_format))
    if bandwidth is not None and not bandwidth > 0:
        raise ShapeError("fit", "bandwidth", expected="above 0", got=str(bandwidth))
    inventory = source if isinstance(source, Inventory) else take_inventory(source)
    config, specs = inventory.config, expected_tensors(inventory.config)

    formats = resolve_formats(config, weight_format, getattr(torch, dtype or "bfloat16"))
    # An embedding of its own is looked up, not multiplied.
    linear = {n for n, s in specs.items() if len(s.shape) == 2 and s.component != "embedding"}
    if config.tie_word_embeddings:
        linear.add("model.embed_tokens.weight")

    parameters: dict[str, int] = {}
    held: dict[str, int] = {}
    decode = 0.0
    active = config.num_experts_per_tok / max(config.n_routed_experts, 1)
    for name, spec in specs.items():
        values = math.prod(spec.shape)
        size = inventory.stored.get(name, 0)
        format = formats[name] if name in linear else None
        if dtype is not None and format != STORED:
            size = values * (4 if spec.dtype_class == "float32" else _SIZES[dtype])
        if format in CODED:
            size = packed_bytes(spec.shape, format)
        parameters[spec.component] = parameters.get(spec.component, 0) + values
        held[spec.component] = held.get(spec.component, 0) + size
        if spec.component == "experts" and spec.dtype_class == "linear":
            decode += size * active
        elif spec.component == "embedding" and not config.tie_word_embeddings:
            decode += size / config.vocab_size  # one row
        elif spec.component != "mtp":
            decode += size

    layers = [config.layer(i) for i in range(config.num_hidden_layers)]
    rings = [layer for layer in layers if layer.window_keys is not None]
    key_bytes = 4 if dtype == "float32" else 2
    per_token = sum(
        _kv_bytes(one, key_bytes, coded=kv_format in ("int8", "e4m3"))
        for one in layers
        if one.window_keys is None
    )
    in_sight = sum(
        min(context, (one.window_keys or 1) - 1) * _kv_bytes(one, key_bytes) for one in rings
    )
    if config.num_mtp_layers:
        rings += [config.mtp_layer()] * config.num_mtp_layers
    return FitReport(
        source=inventory.source,
        held_as=_held_as(dtype, weight_format),
        parameters=parameters,
        weight_bytes=held,
        unused_bytes=inventory.unused_bytes,
        global_kv_bytes_per_token=per_token,
        ring_bytes=sum(_ring_keys(one) * _kv_bytes(one, key_bytes) for one in rings),
        context=-(-context // BLOCK) * BLOCK,
        batch=batch,
        decode_weight_bytes=round(decode),
        decode_kv_bytes=context * per_token + in_sight,
        ram_bytes=_available_memory() if ram_bytes is None else ram_bytes,
        bandwidth=bandwidth,
    )


def _held_as(dtype: str | None, weight_format: WeightFormat) -> str:
    parts = weight_format.items() if isinstance(weight_format, Mapping) else ()
    own = ", ".join(f"{name} {format}" for name, format in parts) or weight_format
    return " with ".join(filter(None, (dtype or "stored", own)))


def _kv_bytes(layer: LayerConfig, key_bytes: int, *, coded: bool = False) -> int:
    """One cached position of one layer, padded as the caches pad it; coded: in 8 bits."""
    qk_dim = layer.head_dim + (layer.head_dim % 2 if key_bytes == 2 else 0)
    v_dim = -(-layer.v_head_dim // 16) * 16
    if coded:
        return layer.num_kv_heads * (qk_dim + v_dim + 2 * SCALE_BYTES)
    return layer.num_kv_heads * (qk_dim + v_dim) * key_bytes


def _ring_keys(layer: LayerConfig) -> int:
    """Positions that a sliding layer keeps: the window before the query, in whole blocks."""
    assert layer.window_keys is not None
    return max(1, -(-(layer.window_keys - 1) // BLOCK)) * BLOCK


def _available_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gb(size: int) -> str:
    return f"{size / 1e9:12.3f} GB"
