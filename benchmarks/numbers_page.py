"""Make docs/numbers.md and its plot from the result files, and from nothing else.

mimo-native bench --peers --save          # writes benchmarks/results/
python benchmarks/numbers_page.py              # writes docs/numbers.md, and docs/numbers.svg
                                          # where matplotlib is installed
"""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PLOT = ROOT / "docs" / "numbers.md", ROOT / "docs" / "numbers.svg"

HEAD = """# Measured numbers

Made by `python benchmarks/numbers_page.py` from the files in `benchmarks/results/`, each written by
`mimo-native bench FAMILY --peers --save`. Times are medians; on one thread they are CPU time. The
limit of a case is the larger of its bytes over the bandwidth of the nearest memory that can hold
them and its FLOPs over the arithmetic peak, both probed in the same run. The last columns say how
many times as long torch and other libraries take, sample by sample in turn.

![Fraction of the limit per case](numbers.svg)
"""


def load(folder: Path = RESULTS) -> list[tuple[str, dict]]:
    """(family, record) of every result file, in order of their names."""
    return [
        (p.name.split(".")[0], json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))
    ]


def page(records: list[tuple[str, dict]]) -> str:
    return "\n".join([HEAD, *(_section(family, record) for family, record in records)])


def _section(family: str, record: dict) -> str:
    if family == "model":
        return _models(record["runs"])
    if family == "speculation":
        return _speculation(record["runs"])
    rows = record["rows"]
    rivals = list(dict.fromkeys(name for row in rows for name in row["x"]))
    columns = ["case", "threads", "us", "GFLOP/s", "GB/s", "of the limit", *rivals]
    versions = ", ".join(f"{name} {text}" for name, text in record["versions"].items())
    probes = ", ".join(f"{key} {value / 1e9:.0f} G" for key, value in record["probe"].items())
    return "\n".join(
        [
            f"## {family}",
            f"{record['cpu']}, {record['isa']}, {record['compiler']}; {versions}; commit"
            f" {record['commit']}. Probed: {probes or 'nothing'}.",
            "",
            _line(columns),
            _line(["---", *("---:" for _ in columns[1:])]),
            *(_line(_cells(family, row, rivals)) for row in rows),
            "",
        ]
    )


def _cells(family: str, row: dict, rivals: list[str]) -> list[str]:
    us, fraction = row["us"], row["peak_fraction"]
    return [
        row["name"].removeprefix(family).strip(),
        str(row["threads"]),
        f"{us:.{3 if us < 10 else 1}f}",
        f"{row['gflops']:.1f}",
        f"{row['gbytes']:.1f}",
        "" if fraction is None else f"{fraction:.2f} {row['bound']}",
        *(f"{row['x'][name]:.2f}" if name in row["x"] else "" for name in rivals),
    ]


def _models(runs: list[dict]) -> str:
    """Whole models; each run has a machine state of its own, so its probes stand in its rows."""
    rivals = list(dict.fromkeys(name for run in runs for w in run["work"] for name in w["peers"]))
    columns = ["model, weights", "threads", "work", "tok/s", "of the limit", "probe", "memory"]
    first = runs[0]
    return "\n".join(
        [
            "## model",
            "Tokens per second of whole models; the limit is that of the weights' bytes (decode) or"
            " of the operations (prefill), by a probe taken in turn. Memory: peak over weights and"
            " caches. Others: their tokens per second and how many times as fast ours are.",
            "",
            f"{first['cpu']}, {first['isa']}, {first['compiler']}.",
            "",
            _line([*columns, *rivals]),
            _line(["---", *("---:" for _ in [*columns[1:], *rivals])]),
            *(_line(_work_cells(run, w, rivals)) for run in runs for w in run["work"]),
            "",
            *(_provenance(run) for run in runs),
            "",
        ]
    )


def _speculation(runs: list[dict]) -> str:
    columns = ["model", "text", "temperature", "batch", "drafts", "tokens a pass"]
    columns += ["plain tok/s", "tok/s", "speed-up", "at least (95 %)", "same text"]
    first = runs[0]
    costs = [
        f"- {run['model']}, {run['rows'][0]['domain']}: "
        + ", ".join(f"{n}: {1e6 * s:.0f}" for n, s in run["verify_seconds"].items())
        for run in runs
    ]
    return "\n".join(
        [
            "## speculation",
            "Plain and speculative runs of the same request in turn; the speed-up is the geometric"
            " mean over these pairs. See `csrc/speculative/README.md`.",
            "",
            f"{first['cpu']}, {first['isa']}, {first['compiler']}, {first['threads']} thread;"
            f" commit {', '.join(dict.fromkeys(run['commit'] for run in runs))}.",
            "",
            _line(columns),
            _line(["---", "---", *("---:" for _ in columns[2:])]),
            *(_line(_pair_cells(run["model"], row)) for run in runs for row in run["rows"]),
            "",
            "A pass over so many nodes, in us:",
            *costs,
            "",
        ]
    )


def _pair_cells(model: str, row: dict) -> list[str]:
    return [
        model,
        row["domain"],
        f"{row['temperature']:g}",
        str(row["batch"]),
        row["what"],
        f"{row['accept_length']:.2f}",
        f"{row['plain_rate']:.0f}",
        f"{row['rate']:.0f}",
        f"{row['speed_up']:.2f}",
        f"{row['lower_95']:.2f}",
        "yes" if row["identical"] else "no",
    ]


def _work_cells(run: dict, work: dict, rivals: list[str]) -> list[str]:
    ours, unit = work["tokens_per_second"], "GB/s" if work["bound"] == "bandwidth" else "GFLOP/s"
    return [
        f"{run['model']}, {run['weights']}",
        str(run["threads"]),
        work["name"],
        f"{ours:.1f}",
        f"{work['fraction']:.2f} {work['bound']}",
        f"{work['probe'] / 1e9:.0f} {unit}",
        f"{run['memory']['ratio']:.2f}",
        *(
            f"{work['peers'][name]:.1f}, {ours / work['peers'][name]:.2f}x"
            if name in work["peers"]
            else ""
            for name in rivals
        ),
    ]


def _provenance(run: dict) -> str:
    versions = ", ".join(
        text if " " in text else f"{name} {text}" for name, text in run["versions"].items()
    )
    names = ", ".join(work["name"] for work in run["work"])
    beside = f"; llama.cpp ran {run['peer_file']}" if run["peer_file"] else ""
    return (
        f"- {run['model']}, {run['weights']}, {run['threads']} threads, {names}: commit"
        f" {run['commit']}, {run['clock']} time, {run['rounds']} rounds; {versions}{beside}."
    )


def _bars(family: str, record: dict) -> list[tuple[str, str, float]]:
    """(family, label, fraction of the limit) of every case that has one."""
    if family == "speculation":
        return []
    if family == "model":
        return [
            (
                family,
                f"{run['model']} {run['weights']} {w['name']} {run['threads']}t",
                w["fraction"],
            )
            for run in record["runs"]
            for w in run["work"]
        ]
    return [
        (family, f"{row['name']} {row['threads']}t", row["peak_fraction"])
        for row in record["rows"]
        if row["peak_fraction"] is not None
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(records: list[tuple[str, dict]], target: Path) -> None:
    """A bar per case: its fraction of the limit; one colour per family."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "mimo_native"
    from matplotlib import pyplot

    bars = [bar for family, record in records for bar in _bars(family, record)]
    families = list(dict.fromkeys(family for family, _, _ in bars))
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.18 * len(bars)))
    for i, family in enumerate(families):
        mine = [(at, bar) for at, bar in enumerate(bars) if bar[0] == family]
        axes.barh([at for at, _ in mine], [bar[2] for _, bar in mine], color=f"C{i}", label=family)
    axes.set_yticks(range(len(bars)), [label for _, label, _ in bars], fontsize=5)
    axes.invert_yaxis()
    axes.margins(y=0)
    axes.axvline(1, color="black", linewidth=0.5)
    axes.set_xlabel("fraction of the machine's limit")
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    records = load()
    PAGE.write_text(page(records))
    print(f"written: {PAGE.relative_to(ROOT)}")
    if importlib.util.find_spec("matplotlib"):
        draw(records, PLOT)
        print(f"written: {PLOT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
