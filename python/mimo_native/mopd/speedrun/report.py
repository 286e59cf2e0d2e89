"""The speedrun's report: one self-contained HTML file beside the report's own figures."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .chart import line_chart
from .tasks import write_text

__all__ = ["write_report"]

# Table 7 of the report: student, best teacher and its kind, after.
_TABLE_7 = (
    ("AIME 2025", 89.3, 93.9, "RL", 94.1),
    ("HMMT 2025", 76.9, 82.6, "RL", 84.4),
    ("LiveCodeBench", 77.5, 82.6, "RL", 83.2),
    ("MMLU-Pro", 84.7, 84.7, "self", 84.9),
    ("GPQA-Diamond", 84.9, 84.9, "self", 84.3),
    ("HLE", 21.2, 21.2, "self", 22.1),
    ("Arena-Hard (hard prompt)", 50.0, 50.0, "self", 54.1),
    ("Arena-Hard (creative)", 90.1, 90.1, "self", 86.2),
    ("SWE-bench Verified", 67.8, 74.2, "RL", 73.4),
    ("Tau2-Bench", 75.9, 79.6, "RL", 80.3),
    ("Tau2-Telecom", 92.7, 95.0, "RL", 95.3),
    ("BrowseComp", 42.5, 51.7, "SFT", 45.4),
)
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .7em;text-align:right}
th{border-bottom:1px solid #999}td:first-child,th:first-child{text-align:left}
svg text{font:11px system-ui,sans-serif}.charts{display:flex;flex-wrap:wrap;gap:8px}
.note{color:#555}"""


def write_report(path: Path, results: Mapping[str, Any]) -> None:
    """Write ``results``, as the speedrun prints them, as a page."""
    body = [
        "<h1>From a small base model to multi-teacher distillation and speculative decoding</h1>",
        f"<p>{escape(_hardware())}. {results['seconds']:.0f} seconds in all, "
        f"{results['workers']} process(es), {len(results['seeds'])} seed(s). "
        "Everything on this page was computed by "
        "<code>mimo-native speedrun</code>, but for what is marked as the report's "
        "(arXiv 2601.02780).</p>",
        "<h2>After distillation, in the layout of table 7</h2>",
        _table(results["table"]),
        "<p class=note>Tasks: share of sampled answers that are right, in percent; 95 % intervals "
        "of the difference to the best teacher. text: mean log-probability per token of held-out "
        "text, whose teacher is the student itself. Normalised: 0 is the student, 1 the teacher."
        "</p>",
        _others(results["table"], results["others"]),
        "<h3>The report's own</h3>",
        _table_7(),
        "<h2>Along the way, as in figure 6</h2>",
        '<div class="charts">',
        *_curves(results),
        "</div>",
        _rollouts(results),
        _costs(results["costs"]),
        "<h2>Speculative decoding with the heads trained on the rollouts, as in figure 7</h2>",
        _speculation(results["speculation"]),
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>mimo_native speedrun</title>'
        f"<style>{_STYLE}</style>{''.join(body)}</html>\n"
    )
    write_text(path, page)


def _hardware() -> str:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} CPUs"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{lines}</table>"


def _table(table: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, row in table.items():
        percent = 1.0 if row["kind"] == "self" else 100.0
        places = 3 if row["kind"] == "self" else 1
        cells = [f"{percent * row[key]:.{places}f}" for key in ("student", "teacher", "after")]
        change = percent * row["difference"]
        rows.append(
            [
                name,
                cells[0],
                f"{cells[1]} ({row['kind']})",
                cells[2],
                f"{change:+.{places}f} ± {percent * row['interval']:.{places}f}",
                _share(row.get("normalised")),
                str(row["prompts"]),
            ]
        )
    head = ("domain", "student", "best teacher", "after", "difference", "normalised", "prompts")
    return _rows(head, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _others(table: Mapping[str, Any], others: Mapping[str, Mapping[str, float | None]]) -> str:
    names = [name for name, row in table.items() if "normalised" in row]
    rows = []
    for stage, own in others.items():
        values = [own[name] for name in names]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        rows.append([stage, *map(_share, (*values, mean))])
    return "<h3>Normalised, by method</h3>" + _rows(("method", *names, "mean"), rows)


def _table_7() -> str:
    rows = [
        [name, f"{a}", f"{t} ({kind})", f"{b}", f"{b - t:+.1f}"] for name, a, t, kind, b in _TABLE_7
    ]
    return _rows(("benchmark", "student", "best teacher", "after", "difference"), rows)


def _curves(results: Mapping[str, Any]) -> list[str]:
    return [
        line_chart(
            name,
            stages,
            levels={"teacher": results["table"][name]["teacher"]},
            x_label="rollouts",
        )
        for name, stages in results["curves"].items()
    ]


def _rollouts(results: Mapping[str, Any]) -> str:
    rows = [
        [name, *("not reached" if n is None else f"{n:,}" for n in own.values())]
        for name, own in results["rollouts"].items()
    ]
    head = ("domain", *next(iter(results["rollouts"].values()), {}))
    return "<h3>Rollouts to 90 % of the way to the teacher</h3>" + _rows(head, rows)


def _costs(costs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Seconds of a stage, mean over the seeds."""
    names = dict.fromkeys(name for own in costs.values() for name in own)
    rows = []
    for name in names:
        known = [own[name] for own in costs.values() if name in own]
        rows.append(
            [name]
            + [
                f"{sum(cost[key] for cost in known) / len(known):.0f}"
                for key in ("seconds", "cpu_seconds")
            ]
        )
    return "<h3>Seconds of each stage, without its score</h3>" + _rows(
        ("stage", "elapsed", "of processors"), rows
    )


def _speculation(rows: Mapping[str, Mapping[str, Any]]) -> str:
    table = _rows(
        ("domain", "nats per token", "accept length", "report's fit", "speed-up", "identical"),
        [
            [
                name,
                f"{row['nats']:.3f}",
                f"{row['accept_length']:.2f}",
                f"{_fit(row['nats']):.2f}" if row["nats"] < 0.35 else "outside",
                f"{row['tokens_per_second'] / row['plain_tokens_per_second']:.2f}",
                "yes" if row["identical"] else "NO",
            ]
            for name, row in rows.items()
        ],
    )
    line = [(x / 100, _fit(x / 100)) for x in range(2, 36)]
    ours = {name: [(row["nats"], row["accept_length"])] for name, row in rows.items()}
    return (
        table
        + '<div class="charts">'
        + line_chart("accept length here", ours, x_label="nats per token", marks=True)
        + line_chart("the report's fit, 4 (1 - 0.58 x^0.58)", {"": line}, x_label="nats per token")
        + "</div><p class=note>Sampled at temperature 1, batch 1. The report's fit holds below "
        "0.35 nats.</p>"
    )


def _fit(nats: float) -> float:
    return 4 * (1 - 0.58 * math.pow(max(nats, 1e-9), 0.58))
