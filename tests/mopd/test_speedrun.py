"""The speedrun: its tasks, its figures from known scores, and a run of everything, much reduced."""

import json
import math
import random
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from mimo_native.mopd.speedrun import Size, speedrun
from mimo_native.mopd.speedrun.ablations import _row, paired
from mimo_native.mopd.speedrun.chart import line_chart
from mimo_native.mopd.speedrun.iteration import iterate
from mimo_native.mopd.speedrun.study import normalised, rollouts_to, summary
from mimo_native.mopd.speedrun.tasks import SELF, TASKS, write_tasks


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tasks_are_right_and_repeatable(tmp_path: Path) -> None:
    a = write_tasks(tmp_path / "a", train=40, heldout=10, defect=0.5, seed=3)
    b = write_tasks(tmp_path / "b", train=40, heldout=10, defect=0.5, seed=3)
    assert {p.name: p.read_bytes() for p in a.iterdir()} == {
        p.name: p.read_bytes() for p in b.iterdir()
    }
    answers = {
        "reverse": lambda s: s[::-1],
        "shift": lambda s: "".join("3456789012"[int(c)] for c in s),
        "sort": lambda s: "".join(sorted(s)),
        "swap": lambda s: s[4:] + s[:4],
    }
    for name, solve in answers.items():
        for part in ("", ".heldout"):
            for row in rows(a / f"{name}{part}.jsonl"):
                task, number = row["prompt"].split()
                assert task == name
                assert row["answer"] == solve(number)
        wrong = [
            row["answer"] != solve(row["prompt"].split()[1])
            for row in rows(a / f"{name}.defect.jsonl")
        ]
        assert sum(wrong) > 20
        trained = {row["prompt"] for row in rows(a / f"{name}.jsonl")}
        assert not trained & {row["prompt"] for row in rows(a / f"{name}.heldout.jsonl")}
    assert all(row["answer"] for row in rows(a / f"{SELF}.jsonl"))


@pytest.mark.parametrize("name", TASKS)
def test_a_defect_keeps_the_length_and_most_digits(name: str) -> None:
    _, spoil = TASKS[name]
    draw = random.Random(0)
    same = 0
    for _ in range(200):
        number = "".join(draw.choice("0123456789") for _ in range(8))
        spoiled = spoil(number, 0.2, draw)
        assert len(spoiled) == 8
        same += sum(a == b for a, b in zip(number, spoiled, strict=True))
    assert 0.6 < same / 1600 < 0.9


def test_summary_of_known_scores() -> None:
    ones, zeros = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    quarter = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    three = torch.tensor([1.0, 1, 1, 0], dtype=torch.float64)
    scores = {
        "student": dict.fromkeys(TASKS, quarter) | {SELF: -ones},
        "mopd": dict.fromkeys(TASKS, three) | {SELF: -ones + torch.tensor([0.1, -0.1, 0.1, -0.1])},
        **{f"specialist-{task}": {task: ones} for task in TASKS},
    }
    table = summary(scores)
    for task in TASKS:
        row = table[task]
        assert row["normalised"] == pytest.approx((0.75 - 0.25) / (1.0 - 0.25))
        assert row["difference"] == pytest.approx(-0.25)
        # The difference is 0, 0, 0, -1: standard deviation 0.5, over the root of 4.
        assert row["interval"] == pytest.approx(1.96 * 0.25)
    assert table[SELF]["within_two_errors"]
    assert table[SELF]["paired_error"] == pytest.approx(0.1 * math.sqrt(4 / 3) / 2)
    scores["mopd"][SELF] = -ones - 0.5 + zeros
    assert not summary(scores)[SELF]["within_two_errors"]
    assert normalised(0.2, 0.6, 0.4) == pytest.approx(0.5)
    assert rollouts_to([(0, 0.1), (256, 0.5), (512, 0.8)], 0.5) == 256
    assert rollouts_to([(0, 0.1)], 0.5) is None


def test_a_chart_puts_points_where_they_belong() -> None:
    svg = line_chart("t & u", {"a": [(0, 0.0), (10, 1.0)]}, levels={"top": 1.0}, x_label="x")
    assert "t &amp; u" in svg
    assert '<polyline points="46.0,206.0 370.0,26.0"' in svg
    assert 'd="M46.0 26.0H370" stroke="#888"' in svg


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}, "the report needs no other file"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_runs_and_reports(tmp_path: Path) -> None:
    """A few steps of each stage: no claim on the figures, but all of them are there and add up."""
    size = Size(
        student=2,
        specialist=1,
        reward=1,
        distil=2,
        train=64,
        heldout=4,
        curve_every=1,
        curve_prompts=2,
        rollouts=32,
    )
    results = speedrun(tmp_path, size, seeds=(0, 1), workers=2)
    assert json.loads((tmp_path / "results.json").read_text())["table"] == results["table"]
    assert set(results["table"]) == {*TASKS, SELF}
    assert all(row["prompts"] == 8 for row in results["table"].values())
    assert set(results["others"]) == {
        "mopd", "mopd without ORM", "ORM only", "averaged", "offline",
    }  # fmt: skip
    for task in TASKS:
        assert [x for x, _ in results["curves"][task]["mopd"]] == [0, 32, 64]
    assert all(row["identical"] for row in results["speculation"].values())
    page = _Tags()
    page.feed((tmp_path / "report.html").read_text())
    assert page.seen.count("svg") == 7
    assert "reverse" in page.text
    for own in results["costs"].values():
        assert set(own) == {
            "student",
            *(f"specialist-{task}" for task in TASKS),
            *results["others"],
        }
        assert all(cost["cpu_seconds"] > 0 for cost in own.values())
    # One process with as many threads as it likes comes to the same bits.
    alone = tmp_path / "alone"
    speedrun(alone, size, seeds=(1,), baselines=False)
    files = [f for kind in ("scores.json", "final/*.safetensors") for f in alone.rglob(kind)]
    assert len(files) == 8 * 3  # stages, each with two files of weights
    for file in files:
        assert file.read_bytes() == (tmp_path / file.relative_to(alone)).read_bytes()
    # A second call trains nothing and comes to the same.
    again = speedrun(tmp_path, size, seeds=(0, 1))
    assert again["scores"] == results["scores"]
    assert again["curves"] == results["curves"]
    assert again["costs"] == results["costs"]
    # A second round sees other rollouts, starts from the first one's student, and is scored.
    rows = iterate(tmp_path, 1, size=size)
    assert set(rows) == {*TASKS, SELF}
    assert rows[SELF]["teacher"] == rows[SELF]["first"]
    content = json.loads((tmp_path / "seed-0/second/config.json").read_text())
    assert content["init"] == str(tmp_path / "seed-0/mopd/final")
    assert content["seed"] == 1000
    assert content["domains"]["sort"]["teacher"] == "sort"


def test_a_stage_that_was_stopped_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has saved; the stages after it would find nothing to start from."""
    from mimo_native.mopd.speedrun import recipe
    from mimo_native.pretrain.run import RunResult

    def stopped(config: object, **options: object) -> RunResult:
        return RunResult("stopped", 1, 1, tmp_path)

    monkeypatch.setattr(recipe, "sft", stopped)
    size = Size(student=2, specialist=1, reward=1, distil=2, train=8, heldout=2)
    with pytest.raises(KeyboardInterrupt):
        speedrun(tmp_path, size)
    assert not (tmp_path / "results.json").exists()


def test_paired_differences() -> None:
    """Against Student's t by hand: differences 0.1, 0.2, 0.3; deviation 0.1, t(2) = 4.303."""
    got = paired([0.6, 0.8, 1.0], [0.5, 0.6, 0.7])
    assert got["difference"] == pytest.approx(0.2)
    assert got["interval"] == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert not got["resolved"]
    assert paired([0.6, 0.61, 0.6], [0.5, 0.5, 0.5])["resolved"]
    assert not paired([0.9], [0.1])["resolved"]


def test_a_row_of_the_ablations() -> None:
    """Two seeds of four prompts: differences 1, 0, 0, 0 and 0, 0, 0, 0 on top of a tie."""
    zeros = torch.zeros(4, dtype=torch.float64)
    one = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    row = _row([one, zeros], [zeros, zeros, one], [0.1, 0.3])
    assert row["seeds"] == 2
    assert row["normalised"] == row["difference"] == pytest.approx(0.125)
    assert row["mismatch"] == pytest.approx(0.2)
    # Standard errors 0.5 / 2 and 0; their mean's is 0.25 / 2. Over seeds: 12.706 * 0.125.
    assert row["over_prompts"] == pytest.approx(1.96 * 0.125)
    assert row["interval"] == pytest.approx(12.706 * 0.125, rel=1e-3)
    assert not row["resolved"]
    assert _row([one], [zeros], [0.0])["interval"] is None


def test_the_short_form_learns(tmp_path: Path) -> None:
    """The command of three minutes: specialists, and a student that takes after all of them."""
    command = [sys.executable, "-W", "ignore", "-m", "mimo_native.cli.main", "speedrun", "--short"]
    command += ["--out", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr.decode()
    results = json.loads(done.stdout)
    assert set(results["normalised"]) == set(TASKS)
    assert results["seconds"] > 0
    scores = results["scores"]
    for task in ("shift", "swap"):
        # Measured: 0.13 before, 0.59 and 0.83 after.
        assert scores["student"][task] < 0.3
        assert scores["mopd"][task] > 0.5
    assert sum(results["normalised"].values()) / len(TASKS) > 0.35  # measured: 0.49
    assert scores["mopd"][SELF] > scores["student"][SELF] - 0.03  # measured: 0.004
    assert all(row["identical"] for row in results["speculation"].values())
    assert (tmp_path / "report.html").stat().st_size > 10_000
