"""What each part of the recipe is worth, at a scale that runs anywhere: the report's comparisons.

Every variant differs from the base in one thing and is trained from the same seeds on the same
rows; held-out losses are compared seed by seed. A difference whose 95 % interval (Student's t over
the paired differences) holds zero is called what it is, not resolved.

    mimo-native pretrain ablations --output runs/ablations
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ShapeError
from ..training.metrics import read_metrics
from ..training.plot import canvas, save_figure
from ..training.schedule import Piece, Schedule, Stage
from .config import EvalConfig, PretrainConfig
from .nano import DOMAINS, nano_model, prepare_corpora
from .run import run

__all__ = ["VARIANTS", "AblationRow", "ablate", "ablation_run", "compare"]

_WINDOW, _SEQ_LEN, _BATCH = 17, 256, 8
_LAYERS = (0, 1, 1, 1, 0)
_MIXTURE = {"tables": 0.10, "logs": 0.12, "records": 0.13, "prose": 0.20, "code": 0.45}

# Name -> changes of the model, changes of the stage. The base has a window of 17 keys with sinks in
# three layers of five, one MTP head, and both kinds of balancing.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "all global": ({"hybrid_layer_pattern": (0,) * len(_LAYERS)}, {}),
    "window without sink": ({"add_swa_attention_sink_bias": False}, {}),
    "wider window": ({"window_keys": 4 * _WINDOW - 3}, {}),
    "wider window without sink": (
        {"window_keys": 4 * _WINDOW - 3, "add_swa_attention_sink_bias": False},
        {},
    ),
    "without MTP": ({"num_mtp_layers": 0}, {"mtp_weight": 0.0}),
    "without balancing": ({}, {"bias_rate": 0.0, "aux_coefficient": 0.0}),
    "balance loss alone": ({}, {"bias_rate": 0.0}),
}

# Two-sided 95 % quantiles of Student's t for 1, 2, .. degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
      2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)  # fmt: skip


@dataclass(frozen=True)
class AblationRow:
    """A variant against the base: mean over the seeds of value(variant) - value(base).

    metric      "loss" in nats per token, the mean of the domains or of one; "load", the busiest
                expert's over the mean load of the last quarter's steps
    half_width  of the 95 % interval
    """

    variant: str
    metric: str
    value: float
    difference: float
    half_width: float
    seeds: int

    @property
    def verdict(self) -> str:
        if abs(self.difference) <= self.half_width:
            return "not resolved"
        return "higher" if self.difference > 0 else "lower"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def ablation_run(
    output: str | Path, variant: str, seed: int, *, tokens: int = 300_000, data: str | Path
) -> PretrainConfig:
    """One run of a variant, on the token files below ``data``. Raises ShapeError for its name."""
    if variant not in VARIANTS:
        names = ", ".join(VARIANTS)
        raise ShapeError("ablation_run", "variant", expected=f"one of {names}", got=repr(variant))
    model_changes, stage_changes = VARIANTS[variant]
    shape = {
        "hidden_size": 64,
        "hybrid_layer_pattern": _LAYERS,
        "moe_layer_freq": (0, 1, 1, 1, 1),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "v_head_dim": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 24,
        "swa_v_head_dim": 16,
        "intermediate_size": 192,
        "n_routed_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "window_keys": _WINDOW,
    }
    warm = tokens // 20
    stage = {
        "name": variant,
        "tokens": tokens,
        "seq_len": _SEQ_LEN,
        "batch": _BATCH,
        "lr": (Piece("linear", warm, 4e-3), Piece("cosine", tokens - warm, 4e-4)),
        "mixture": _MIXTURE,
        "mtp_weight": 0.3,
        "bias_rate": 5e-3,
        "aux_coefficient": 1e-4,
    }
    return PretrainConfig(
        output=str(Path(output) / f"{variant.replace(' ', '-')}-{seed}"),
        data={name: str(Path(data) / name) for name in DOMAINS},
        model=replace(nano_model(), **(shape | model_changes)),
        init_std=0.03,
        schedule=Schedule((Stage(**(stage | stage_changes)),)),
        micro_rows=_BATCH,
        seed=seed,
        eval=EvalConfig(rows=24, prompts=0),
    )


def ablate(
    output: str | Path,
    *,
    seeds: int = 5,
    tokens: int = 300_000,
    data: str | Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[AblationRow]:
    """Train every variant from ``seeds`` seeds and compare them; runs that are there stay.

    data: token files of nano's domains; prepared in ``output``/tokens without it.
    """
    if not 2 <= seeds <= len(_T) + 1:
        raise ShapeError("ablate", "seeds", expected=f"2 to {len(_T) + 1}", got=str(seeds))
    output = Path(output)
    if data is None:
        prepare_corpora(output)
        data = output / "tokens"
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        for variant in VARIANTS:
            config = ablation_run(output, variant, seed, tokens=tokens, data=data)
            result = run(config)
            if result.status == "stopped":
                raise KeyboardInterrupt
            results[variant].append(measured(config.output))
            progress(f"seed {seed} {variant}: {results[variant][-1]['loss']:.4f}")
    return compare(results)


def measured(directory: str | Path) -> dict[str, float]:
    """What a finished run is compared by: held-out losses, and the load of the busiest expert."""
    score = read_metrics(directory, "eval")[-1]
    steps = read_metrics(directory, "step")
    loads = [step["load_max_over_mean"] for step in steps[-len(steps) // 4 :]]
    domains = {f"loss {name}": d["loss"] for name, d in score["domains"].items()}
    return {"loss": score["loss"], "load": sum(loads) / len(loads)} | domains


def compare(results: Mapping[str, list[dict[str, float]]]) -> list[AblationRow]:
    """Paired differences from "base", whose own row has none. results[variant][seed][metric]."""
    rows = []
    for variant, runs in results.items():
        for metric in runs[0]:
            values = [run[metric] for run in runs]
            gaps = [v - b[metric] for v, b in zip(values, results["base"], strict=True)]
            mean, count = sum(gaps) / len(gaps), len(gaps)
            spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (count - 1))
            half = _T[count - 2] * spread / math.sqrt(count)
            rows.append(AblationRow(variant, metric, sum(values) / count, mean, half, count))
    return rows


def table(rows: Sequence[AblationRow]) -> str:
    """Markdown: a line per variant, its mean loss, and the differences that matter."""
    lines = [
        "| variant | loss | difference | 95 % interval | verdict | busiest expert |",
        "|---|---|---|---|---|---|",
    ]
    loads = {row.variant: row for row in rows if row.metric == "load"}
    for row in rows:
        if row.metric != "loss":
            continue
        load = loads[row.variant]
        if row.variant == "base":
            lines.append(f"| base | {row.value:.4f} | | | | {load.value:.2f} |")
            continue
        interval = (
            f"{row.difference - row.half_width:+.4f} to {row.difference + row.half_width:+.4f}"
        )
        lines.append(
            f"| {row.variant} | {row.value:.4f} | {row.difference:+.4f} | {interval} "
            f"| {row.verdict} | {load.value:.2f} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[AblationRow], target: str | Path) -> Path:
    """Differences from the base with their intervals, overall and by domain."""
    figure = canvas(12, 4)
    metrics = [m for m in dict.fromkeys(row.metric for row in rows) if m.startswith("loss")]
    axes = figure.subplots(1, len(metrics), sharey=True)
    names = [name for name in VARIANTS if name != "base"]
    for axis, metric in zip(axes, metrics, strict=True):
        found = {row.variant: row for row in rows if row.metric == metric}
        shown = [found[name] for name in names]
        colours = {"not resolved": "grey", "lower": "tab:green", "higher": "tab:red"}
        for y, row in enumerate(shown):
            axis.errorbar(row.difference, y, xerr=row.half_width, fmt="o", markersize=4,
                          capsize=3, color=colours[row.verdict])  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.7)
        axis.set_title(metric.removeprefix("loss ") if metric != "loss" else "mean", loc="left")
        axis.set_xlabel("nats per token")
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
    return save_figure(figure, Path(target))
