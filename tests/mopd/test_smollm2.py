"""The run on real text: its tasks, its table from known scores, and all stages on a small model."""

import json
from pathlib import Path

import pytest
import torch

from mimo_native.mopd.smollm2 import Size, distil_smollm2
from mimo_native.mopd.smollm2.study import draw, table
from mimo_native.mopd.smollm2.tasks import SELF, TASKS, write_tasks

SIZE = Size(
    specialist=2,
    specialist_prompts=8,
    distil=2,
    distil_prompts=6,
    train=40,
    heldout=8,
    replies=4,
    curve_every=2,
    curve_prompts=2,
)


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def request(row: dict[str, str]) -> str:
    start, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert row["prompt"].startswith(start)
    assert row["prompt"].endswith(end)
    return row["prompt"][len(start) : -len(end)]


def test_tasks_are_right_and_repeatable(tmp_path: Path) -> None:
    a, b = (write_tasks(tmp_path / name, train=900, heldout=300, seed=3) for name in "ab")
    assert {p.name: p.read_bytes() for p in a.iterdir()} == {
        p.name: p.read_bytes() for p in b.iterdir()
    }
    asked: dict[str, list[object]] = {"sums": [], "words": []}
    for row in rows(a / "sums.jsonl") + rows(a / "sums.heldout.jsonl"):
        text = request(row).split()
        [at] = [i for i, word in enumerate(text) if word in ("+", "-", "*")]
        problem = " ".join(text[at - 1 : at + 2]).strip("?.")
        assert eval(problem) == int(row["answer"])
        asked["sums"].append(problem)
    for row in rows(a / "words.jsonl") + rows(a / "words.heldout.jsonl"):
        words = request(row).partition(": ")[2].split()
        assert len(words) == 4
        assert sorted(words) == row["answer"].split()
        asked["words"].append(row["answer"])
    for own in asked.values():
        assert len(set(own)) == len(own) == 1200, "a problem comes once, held-out ones included"
    trained, held = (
        {request(r) for r in rows(a / f"{SELF}{part}")} for part in (".jsonl", ".asked.jsonl")
    )
    assert (len(trained), len(held)) == (640, 160)
    assert not trained & held


def test_the_table_from_known_scores() -> None:
    def share(right: int) -> torch.Tensor:
        return torch.tensor([1.0] * right + [0.0] * (8 - right), dtype=torch.float64)

    text = torch.tensor([-2.0, -3.0, -4.0, -5.0], dtype=torch.float64)
    names = [name for task in TASKS for name in (task, f"{task} greedy")]
    scores = {
        stage: {name: share(right) for name in names} | {SELF: text + change, "prose": text}
        for stage, right, change in (
            ("student", 1, 0.0), ("mopd", 4, -0.1),
            ("specialist-sums", 5, -1.0), ("specialist-words", 3, 0.0),
        )
    }  # fmt: skip
    got = table(scores, "mopd")
    assert got["sums"]["normalised"] == pytest.approx(3 / 4)
    assert got["words"]["normalised"] == pytest.approx(3 / 2)
    # One prompt of eight differs: its share, and the deviation of seven zeros and a one.
    assert got["sums"]["difference"] == pytest.approx(-1 / 8)
    assert got["sums"]["paired_error"] == pytest.approx(1 / 8)
    assert got["sums"]["intervals"]["after"] == pytest.approx(1.96 * (2 / 7 / 8) ** 0.5)
    assert got[SELF]["difference"] == pytest.approx(-0.1)
    assert not got[SELF]["within_two_errors"]
    assert got[SELF]["specialists"] == {"sums": pytest.approx(-1.0), "words": 0.0}
    assert got["prose"]["within_two_errors"]


def test_all_stages_on_a_small_model(tmp_path: Path) -> None:
    results = distil_smollm2(tmp_path, SIZE, base="nano", forms=("full", "sampled"))
    assert json.loads((tmp_path / "results.json").read_text())["table"] == results["table"]
    assert results["others"].keys() == {"mopd-sampled"}
    assert all(row["student"] == 0.0 for row in (results["table"][task] for task in TASKS))
    assert results["table"][SELF]["difference"] != 0.0
    for name in (*TASKS, SELF):
        assert [x for x, _, _ in results["curves"][name]["mopd-full"]] == [0, 12]
    runs = {"specialist-sums", "specialist-words", "mopd-full", "mopd-sampled"}
    assert results["tokens"].keys() == runs
    assert results["costs"].keys() == runs | {"texts", "scores"}
    log = (tmp_path / "mopd-full" / "metrics.jsonl").read_text().splitlines()[0]
    kl = json.loads(log)["initial_kl"]
    assert kl.keys() == {*TASKS, SELF}
    # A second call trains and scores nothing, and comes to the same.
    assert distil_smollm2(tmp_path, SIZE, base="nano", forms=("full", "sampled")) == results
    pytest.importorskip("matplotlib")
    assert draw(results, tmp_path / "curves.svg").stat().st_size > 1000
