"""What a model is, as one frozen value.

``MiMoConfig`` says everything about a model's arithmetic and shapes. It is read from the
``config.json`` of a checkpoint in any of its spellings, and asked layer by layer:

    config = MiMoConfig.from_pretrained(path)
    config.layer(5).window_keys  # visible keys on a sliding layer, None on a global one

The same class describes a llama-type model: every layer global and dense, no sink, full rotary,
value scale 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ._config import presets
from ._config.checks import check_config
from ._config.read import parse
from ._config.write import render
from .errors import CheckpointError, ShapeError

__all__ = ["LayerConfig", "MiMoConfig", "QuantizationConfig"]


@dataclass(frozen=True)
class LayerConfig:
    """One decoder layer or one MTP block: what its attention and its feed-forward look like."""

    kind: Literal["global", "sliding"]
    num_q_heads: int
    num_kv_heads: int
    head_dim: int  # of queries and keys
    v_head_dim: int
    rotary_dim: int  # the first rotary_dim of head_dim are rotated
    rope_theta: float
    window_keys: int | None  # visible keys including the query's own; None on a global layer
    sink: bool  # one learned null logit per query head
    value_scale: float  # multiplies V before it enters the cache
    moe: bool
    intermediate_size: int  # of one expert where moe, of the dense feed-forward elsewhere

    @property
    def softmax_scale(self) -> float:
        """The factor on q . k; the sink does not carry it."""
        return self.head_dim**-0.5


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """How a released checkpoint stores its linear weights: e4m3 in blocks, experts maybe mxfp4."""

    store_dtype: Literal["fp8", "mxfp4"] = "fp8"  # of the experts; the other linear weights are fp8
    weight_block_size: tuple[int, int] = (128, 128)
    mxfp4_block_size: int = 32
    ignored_layers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MiMoConfig:
    """Shapes and arithmetic of a model, named as in the released ``config.json`` where it has them.

    ``swa_*`` describes sliding layers and MTP blocks, the plain names describe global layers.
    Raises ``ShapeError`` for a value that no model can have; ``dataclasses.replace`` varies it.
    """

    vocab_size: int
    hidden_size: int
    hybrid_layer_pattern: tuple[int, ...]  # per layer: 0 global, 1 sliding
    moe_layer_freq: tuple[int, ...]  # per layer: 0 dense, 1 experts
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    v_head_dim: int
    swa_num_attention_heads: int
    swa_num_key_value_heads: int
    swa_head_dim: int
    swa_v_head_dim: int
    intermediate_size: int
    window_keys: int | None  # visible keys including self; None where nothing slides
    rope_theta: float
    swa_rope_theta: float
    partial_rotary_factor: float = 1.0
    swa_partial_rotary_factor: float = 1.0
    attention_value_scale: float = 1.0
    add_swa_attention_sink_bias: bool = False
    add_full_attention_sink_bias: bool = False
    n_routed_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    moe_router_dtype: Literal["float32", "bfloat16"] = "float32"  # as stored; float32 when used
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    num_mtp_layers: int = 0
    max_position_embeddings: int = 262144
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    torch_dtype: str = "bfloat16"
    attention_projection_layout: Literal["split", "fused_qkv"] = "split"
    quantization: QuantizationConfig | None = None

    def __post_init__(self) -> None:
        for name in ("hybrid_layer_pattern", "moe_layer_freq"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        check_config(self)

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers, MTP blocks not counted."""
        return len(self.hybrid_layer_pattern)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """``eos_token_id`` as a tuple, empty where the config names none."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    def layer(self, index: int) -> LayerConfig:
        """Decoder layer ``index``, 0-based. Raises ``ShapeError`` if there is no such layer."""
        if not 0 <= index < self.num_hidden_layers:
            raise ShapeError(
                "MiMoConfig.layer",
                "index",
                expected=f"0 <= index < {self.num_hidden_layers}",
                got=str(index),
            )
        moe = bool(self.moe_layer_freq[index])
        return self._layer(sliding=bool(self.hybrid_layer_pattern[index]), moe=moe)

    def mtp_layer(self) -> LayerConfig:
        """The decoder layer inside every MTP block: sliding, with a dense feed-forward."""
        if self.window_keys is None:
            raise ShapeError(
                "MiMoConfig.mtp_layer",
                "window_keys",
                expected="a window, because MTP blocks are sliding layers",
                got="None",
                remedy="Set window_keys and the swa_* fields.",
            )
        return self._layer(sliding=True, moe=False)

    def _layer(self, *, sliding: bool, moe: bool) -> LayerConfig:
        swa = "swa_" if sliding else ""
        head_dim = getattr(self, f"{swa}head_dim")
        return LayerConfig(
            kind="sliding" if sliding else "global",
            num_q_heads=getattr(self, f"{swa}num_attention_heads"),
            num_kv_heads=getattr(self, f"{swa}num_key_value_heads"),
            head_dim=head_dim,
            v_head_dim=getattr(self, f"{swa}v_head_dim"),
            rotary_dim=int(head_dim * getattr(self, f"{swa}partial_rotary_factor")),
            rope_theta=getattr(self, f"{swa}rope_theta"),
            window_keys=self.window_keys if sliding else None,
            sink=self.add_swa_attention_sink_bias if sliding else self.add_full_attention_sink_bias,
            value_scale=self.attention_value_scale,
            moe=moe,
            intermediate_size=self.moe_intermediate_size if moe else self.intermediate_size,
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        window_keys: int | None = None,
        num_mtp_layers: int | None = None,
    ) -> "MiMoConfig":
        """Reads ``config.json`` at ``path`` (a checkpoint directory or the file itself).

        MTP blocks are counted from the names of the tensors beside it where the file does not say.
        ``window_keys`` and ``num_mtp_layers`` override what is found. Raises ``CheckpointError``
        for a missing, damaged or contradictory file, ``UnsupportedError`` for an unknown mode.
        """
        from .weights.files import read_json
        from .weights.safetensors_reader import count_mtp_layers

        path = Path(path)
        file = path / "config.json" if path.is_dir() else path
        d = read_json(file)
        if num_mtp_layers is None and d.get("num_nextn_predict_layers") is None:
            num_mtp_layers = count_mtp_layers(file.parent)
        return cls._parse(d, str(file), window_keys=window_keys, num_mtp_layers=num_mtp_layers)

    @classmethod
    def from_dict(
        cls,
        d: Mapping[str, Any],
        *,
        window_keys: int | None = None,
        num_mtp_layers: int | None = None,
    ) -> "MiMoConfig":
        """Reads the contents of a ``config.json``: hub or transformers dialect, or llama's.

        ``num_mtp_layers`` defaults to ``num_nextn_predict_layers``, else 0: only the tensor names
        know better (``from_pretrained``). Errors as in ``from_pretrained``.
        """
        return cls._parse(d, "config.json", window_keys=window_keys, num_mtp_layers=num_mtp_layers)

    @classmethod
    def _parse(
        cls,
        d: Mapping[str, Any],
        where: str,
        *,
        window_keys: int | None,
        num_mtp_layers: int | None,
    ) -> "MiMoConfig":
        fields = parse(d, where, window_keys=window_keys, num_mtp_layers=num_mtp_layers)
        if fields["quantization"] is not None:
            fields["quantization"] = QuantizationConfig(**fields["quantization"])
        try:
            return cls(**fields)
        except ShapeError as error:
            raise CheckpointError(
                where, error.argument, expected=error.expected, got=error.got, remedy=error.remedy
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """``config.json`` contents that this package, transformers and hub-dialect readers take."""
        return render(self)

    def unquantized(self) -> "MiMoConfig":
        """The same model as ``save_pretrained`` writes it: split projections, float weights."""
        return replace(self, attention_projection_layout="split", quantization=None)

    @classmethod
    def mimo_v2_flash(cls) -> "MiMoConfig":
        """MiMo-V2-Flash: 309 B parameters, 15 B active, 48 layers, three MTP blocks."""
        return cls(**presets.MIMO_V2_FLASH)

    @classmethod
    def tiny(cls) -> "MiMoConfig":
        """MiMo-V2-Flash in miniature: head dims 24/16, GQA groups 16 and 8, its layer pattern, a
        window of 9 keys, 4 of 16 experts active, three MTP blocks; 1.2 M parameters."""
        return cls(**presets.TINY)
