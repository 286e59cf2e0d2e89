"""A run's log as one picture: losses, MTP heads, expert loads, gradients, speed, domains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedError
from .metrics import read_metrics

__all__ = ["canvas", "plot", "save_figure"]

Records = list[dict[str, Any]]


def plot(run: str | Path, output: str | Path | None = None) -> Path:
    """Draw RUN/metrics.jsonl into ``output``, by default RUN/metrics.png; returns its path.

    The ending of ``output`` chooses the format (.png, .svg, .pdf). Raises CheckpointError for a run
    without steps or a place that cannot be written, UnsupportedError without matplotlib.
    """
    records = read_metrics(run)
    steps = [record for record in records if record["kind"] == "step"]
    evals = [record for record in records if record["kind"] in ("eval", "score")]
    if not steps:
        raise CheckpointError(str(run), "metrics.jsonl", expected="at least one step", got="none")
    panels = [(title, draw) for title, needs, draw in _PANELS if needs(steps, evals)]
    figure = canvas(12, 3 * ((len(panels) + 1) // 2))
    axes = list(figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).flat)
    for axis, (title, draw) in zip(axes, panels, strict=False):
        axis.set_title(title, loc="left")
        axis.set_xlabel("step")
        draw(figure, axis, steps, evals)
    for axis in axes[len(panels) :]:
        axis.remove()

    return save_figure(figure, Path(run) / "metrics.png" if output is None else Path(output))


def canvas(width: float, height: float) -> Any:
    """An empty figure. Raises UnsupportedError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        reason = "plots need the package matplotlib"
        raise UnsupportedError("plot", [reason], remedy="Run `pip install matplotlib`.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, target: Path) -> Path:
    """Write ``figure`` whole; its ending chooses the format. Raises CheckpointError."""
    part = target.with_name(f".{target.name}.part")
    try:
        figure.savefig(part, format=target.suffix[1:] or "png", dpi=100)
        part.replace(target)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            str(target), "plot", expected="a picture that can be written", got=str(error)
        ) from error
    return target


def _line(axis: Any, records: Records, name: str, **style: Any) -> None:
    found = [(r["step"], r[name]) for r in records if name in r]
    axis.plot(*zip(*found, strict=True), **{"linewidth": 1, "label": name} | style)


def _losses(figure: Any, axis: Any, steps: Records, evals: Records) -> None:
    _line(axis, steps, "loss", label="training")
    if evals := [r for r in evals if "loss" in r]:
        _line(axis, evals, "loss", label="held out", marker="o", markersize=3)
        for domain in sorted({name for r in evals for name in r.get("domains", {})}):
            found = [(r["step"], r["domains"][domain]["loss"]) for r in evals
                     if domain in r.get("domains", {})]  # fmt: skip
            axis.plot(*zip(*found, strict=True), linewidth=0.7, label=f"held out: {domain}")
    axis.set_ylabel("nats per token")
    axis.legend(fontsize="small")


def _heads(figure: Any, axis: Any, steps: Records, evals: Records) -> None:
    x = [r["step"] for r in steps]
    for k in range(len(steps[0]["mtp"])):
        axis.plot(x, [r["mtp"][k] for r in steps], linewidth=1, label=f"head {k}")
    axis.set_ylabel("nats per token")
    axis.legend(fontsize="small")


def _acceptance(figure: Any, axis: Any, steps: Records, evals: Records) -> None:
    _line(axis, evals, "accept_length", label="sampled", marker="o", markersize=3)
    _line(axis, evals, "text_length", label="held-out text", marker="o", markersize=3)
    axis.set_ylabel("tokens per round")
    axis.legend(fontsize="small")


def _loads(figure: Any, axis: Any, steps: Records, evals: Records) -> None:
    """Each expert's share of a step's slots, over that of a balanced layer; all layers' mean."""
    found = [r for r in steps if r.get("loads")]
    columns = []
    for record in found:
        layers = [[load * len(row) / max(sum(row), 1) for load in row] for row in record["loads"]]
        columns.append([sum(values) / len(layers) for values in zip(*layers, strict=True)])
    experts = len(columns[0])
    image = axis.imshow(
        list(map(list, zip(*columns, strict=True))),
        aspect="auto",
        origin="lower",
        vmin=0,
        vmax=2,
        cmap="coolwarm",
        extent=(found[0]["step"] - 0.5, found[-1]["step"] + 0.5, -0.5, experts - 0.5),
    )
    axis.set_ylabel("expert")
    figure.colorbar(image, ax=axis, label="load / mean")


def _domains(name: str, label: str, *, sign: float = 1.0) -> Callable[..., None]:
    """A value of every domain, from the scores if these have it, else from the steps."""

    def draw(figure: Any, axis: Any, steps: Records, evals: Records) -> None:
        records = evals if _in_domains(name)([], evals) else steps
        for domain in sorted({key for r in records for key in r.get("domains", {})}):
            found = [(r["step"], sign * r["domains"][domain][name]) for r in records
                     if name in r.get("domains", {}).get(domain, {})]  # fmt: skip
            if found:
                axis.plot(*zip(*found, strict=True), linewidth=1, label=domain)
        axis.set_ylabel(label)
        axis.legend(fontsize="small")

    return draw


def _in_domains(name: str) -> Callable[[Records, Records], bool]:
    def has(steps: Records, evals: Records) -> bool:
        return any(name in d for r in steps + evals for d in r.get("domains", {}).values())

    return has


def _curve(name: str, label: str) -> Callable[..., None]:
    def draw(figure: Any, axis: Any, steps: Records, evals: Records) -> None:
        _line(axis, steps, name)
        axis.set_ylabel(label)

    return draw


def _has(name: str) -> Callable[[Records, Records], bool]:
    return lambda steps, evals: any(r.get(name) for r in steps)


# Title, whether the log has what it needs, and how it is drawn.
_PANELS = (
    ("loss", _has("loss"), _losses),
    ("MTP heads", lambda steps, evals: all(r.get("mtp") for r in steps), _heads),
    (
        "acceptance length",
        lambda steps, evals: any("accept_length" in r for r in evals),
        _acceptance,
    ),
    ("held-out scores", _in_domains("score"), _domains("score", "score")),
    ("rewards", _in_domains("reward"), _domains("reward", "mean of the rollouts")),
    ("reverse KL", _in_domains("gap"), _domains("gap", "nats per token", sign=-1.0)),
    ("sampler against policy", _has("mismatch"), _curve("mismatch", "|log pi - log mu|")),
    ("entropy", _has("entropy"), _curve("entropy", "nats per token")),
    ("expert loads", _has("loads"), _loads),
    ("gradient norm", _has("grad_norm"), _curve("grad_norm", "before clipping")),
    ("zero gradients", _has("zero_grads"), _curve("zero_grads", "share of elements")),
    ("learning rate", _has("lr"), _curve("lr", "rate")),
    ("speed", _has("tokens_per_second"), _curve("tokens_per_second", "tokens/s")),
)
