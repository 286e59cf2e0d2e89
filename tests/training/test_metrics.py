"""The run's log."""

from pathlib import Path

import pytest

from mimo_native import CheckpointError
from mimo_native.training import MetricsLog, read_metrics


def write(directory: Path, *steps: int, start: int = 0) -> None:
    with MetricsLog(directory, step=start, tensorboard=False) as log:
        for step in steps:
            log.write("step", step, loss=step / 2, mtp=[1.0])


def test_lines(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    assert read_metrics(tmp_path) == [
        {"kind": "step", "step": 1, "loss": 0.5, "mtp": [1.0]},
        {"kind": "step", "step": 2, "loss": 1.0, "mtp": [1.0]},
    ]
    assert read_metrics(tmp_path, "eval") == []


def test_resuming_drops_what_will_be_written_again(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    write(tmp_path, 3, start=2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_line_cut_short_goes(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    write(tmp_path, 2, start=1)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the log of a run"):
        read_metrics(tmp_path)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with MetricsLog(tmp_path) as log:
        log.write("step", 1, loss=0.5)
    assert list((tmp_path / "tensorboard").iterdir())
