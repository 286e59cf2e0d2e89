"""What a run costs before it starts: FLOPs, memory per device, days."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..config import LayerConfig, MiMoConfig
from ..errors import ShapeError
from ..training.schedule import Schedule, Stage
from ..weights.layout import expected_tensors

__all__ = ["Estimate", "Hardware", "StageEstimate", "estimate", "forward_flops"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Devices, the peak FLOP/s of one, the share of it that training attains, and its memory."""

    devices: int = 2048
    peak: float = 989e12
    utilisation: float = 0.35
    memory: float = 80e9

    def __post_init__(self) -> None:
        for name in ("devices", "peak", "utilisation", "memory"):
            if not getattr(self, name) > 0:
                raise ShapeError("Hardware", name, expected="> 0", got=str(getattr(self, name)))

    @property
    def flops(self) -> float:
        return self.devices * self.peak * self.utilisation


@dataclass(frozen=True)
class StageEstimate:
    name: str
    tokens: int
    steps: int
    flops_per_token: float  # forward and backward
    days: float
    activation_bytes: float  # per device, one row at a time, every layer's input kept


@dataclass(frozen=True)
class Estimate:
    """Totals of a schedule on some hardware; ``str`` is the table that --dry-run prints."""

    parameters: int
    active_parameters: int  # per token, with embedding row, head and one pass of every MTP block
    state_bytes: float  # per device: weights and gradients bfloat16, masters and moments float32
    stages: tuple[StageEstimate, ...]
    hardware: Hardware

    @property
    def flops(self) -> float:
        return sum(s.flops_per_token * s.tokens for s in self.stages)

    @property
    def days(self) -> float:
        return sum(stage.days for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"flops": self.flops, "days": self.days}

    def __str__(self) -> str:
        h = self.hardware
        lines = [
            f"parameters   {self.parameters / 1e9:.3f} B, {self.active_parameters / 1e9:.3f} B "
            "active per token",
            f"hardware     {h.devices} devices of {h.peak / 1e12:.4g} TFLOP/s at "
            f"{100 * h.utilisation:.0f} %, {h.memory / 1e9:.0f} GB each",
            f"state        {self.state_bytes / 1e9:.2f} GB per device",
            f"{'stage':<14}{'tokens':>10}{'steps':>10}{'FLOP/token':>12}{'days':>9}"
            f"{'activations':>14}",
        ]
        lines += [
            f"{s.name:<14}{s.tokens:>10.3g}{s.steps:>10}{s.flops_per_token:>12.3g}{s.days:>9.2f}"
            f"{s.activation_bytes / 1e9:>11.2f} GB"
            for s in self.stages
        ]
        lines.append(f"{'total':<14}{'':>20}{self.flops:>12.3g}{self.days:>9.2f}")
        return "\n".join(lines)


def estimate(
    model: MiMoConfig, schedule: Schedule, hardware: Hardware, *, recompute: bool = True
) -> Estimate:
    """Counts multiplications and additions of matrix products and attention; the rest is small."""
    specs = expected_tensors(model)
    parameters = sum(math.prod(spec.shape) for spec in specs.values())
    stages = []
    for stage in schedule.stages:
        forward = forward_flops(model, stage.seq_len)
        # Utilisation is of these FLOPs: what recomputation adds lowers it, as is usual to count.
        seconds = stage.rows * stage.seq_len * 3 * forward / hardware.flops
        stages.append(
            StageEstimate(
                name=stage.name,
                tokens=stage.rows * stage.seq_len,
                steps=_steps(stage),
                flops_per_token=3 * forward,
                days=seconds / 86400,
                activation_bytes=_activations(model, stage, recompute),
            )
        )
    return Estimate(
        parameters=parameters,
        active_parameters=_active(model),
        state_bytes=parameters * (2 + 2 + 4 + 4 + 4) / hardware.devices,
        stages=tuple(stages),
        hardware=hardware,
    )


def forward_flops(model: MiMoConfig, seq_len: int) -> float:
    """Per token of a sequence of ``seq_len``, MTP blocks and their heads included."""
    hidden, total = model.hidden_size, 0.0
    for i in range(model.num_hidden_layers):
        total += _layer_flops(model, model.layer(i), seq_len)
    head = 2 * hidden * model.vocab_size
    total += head
    if model.num_mtp_layers:
        block = _layer_flops(model, model.mtp_layer(), seq_len) + 2 * 2 * hidden * hidden + head
        total += model.num_mtp_layers * block
    return total


def _layer_flops(model: MiMoConfig, layer: LayerConfig, seq_len: int) -> float:
    hidden = model.hidden_size
    qk, v = layer.num_q_heads * layer.head_dim, layer.num_q_heads * layer.v_head_dim
    kv = layer.num_kv_heads * (layer.head_dim + layer.v_head_dim)
    weights = hidden * (qk + kv + v)
    width = layer.intermediate_size * (model.num_experts_per_tok if layer.moe else 1)
    weights += 3 * hidden * width + (hidden * model.n_routed_experts if layer.moe else 0)
    window = min(layer.window_keys or seq_len, seq_len)
    # Mean number of visible keys of a causal sequence.
    keys = window - window * (window - 1) / (2 * seq_len)
    return 2.0 * weights + 2.0 * keys * (qk + v)


def _active(model: MiMoConfig) -> int:
    share = model.num_experts_per_tok / max(model.n_routed_experts, 1)
    count = 0.0
    for name, spec in expected_tensors(model).items():
        size = math.prod(spec.shape)
        if ".experts." in name:
            size *= share
        elif spec.component == "embedding" and not model.tie_word_embeddings:
            size = model.hidden_size
        count += size
    return round(count)


def _activations(model: MiMoConfig, stage: Stage, recompute: bool) -> float:
    """bfloat16; with recomputation one layer's insides at a time, else all of them."""
    inside = 0.0
    for i in range(model.num_hidden_layers):
        layer = model.layer(i)
        heads = layer.num_q_heads * (layer.head_dim + layer.v_head_dim)
        width = layer.intermediate_size * (model.num_experts_per_tok if layer.moe else 1)
        one = 4 * model.hidden_size + heads + 3 * width
        inside = max(inside, one) if recompute else inside + one
    kept = model.num_hidden_layers * model.hidden_size
    return 2.0 * stage.seq_len * (kept + inside)


def _steps(stage: Stage) -> int:
    """Steps of a stage, its ramp in closed form: long recipes have hundreds of thousands."""
    row = steps = 0
    ramp_rows = stage.batch_ramp_tokens / stage.seq_len if stage.batch_start is not None else 0
    while row < min(ramp_rows, stage.rows):
        row += stage.batch_at(row)
        steps += 1
    return steps + -(-max(stage.rows - row, 0) // stage.batch)
