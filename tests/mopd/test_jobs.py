"""Jobs in worker processes: what they wait for, how an error ends them, and that none is left."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mimo_native.errors import CheckpointError, ShapeError, UnsupportedError
from mimo_native.mopd.speedrun.jobs import Job, run_jobs, usable_cores


def note(directory: Path, name: str, needs: tuple[str, ...]) -> None:
    import torch

    assert all((directory / need).exists() for need in needs)
    time.sleep(0.5 * (name == "a"))  # so that b is done before a, which c needs
    (directory / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def train(directory: Path, name: str) -> None:
    """As a run does: a request to stop is caught, what there is is saved, and nothing follows."""
    from mimo_native.training.signals import StopRequest

    with StopRequest() as stop:
        (directory / f"{name} began").write_text(str(os.getpid()))
        while not stop.asked():
            time.sleep(0.01)
        (directory / f"{name} saved").touch()
    raise KeyboardInterrupt


def fail(directory: Path) -> None:
    until((directory / "long began").exists)
    raise ShapeError("op", "x", expected="a", got="b", remedy="c")


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def graph(directory: Path) -> list[Job]:
    needs = {"a": (), "b": (), "c": ("a",), "d": ("a", "b"), "e": ("c", "d")}
    return [Job(name, own, note, (directory, name, own)) for name, own in needs.items()]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_runs_after_those_it_needs(tmp_path: Path, workers: int) -> None:
    told: list[str] = []
    run_jobs(graph(tmp_path), workers=workers, tell=told.append)
    seen = [(tmp_path / name).read_text().split() for name in "abcde"]
    pids = {int(pid) for pid, _ in seen}
    assert len(told) == 5 if workers == 1 else told[0] == "0/5 running: a, b"
    if workers == 1:
        assert pids == {os.getpid()}
    else:
        assert os.getpid() not in pids
        assert len(pids) <= 2
        assert {threads for _, threads in seen} == {"1"}
    assert usable_cores() >= 1


def test_an_error_arrives_as_it_is_and_ends_the_others(tmp_path: Path) -> None:
    jobs = [
        Job("long", (), train, (tmp_path, "long")),
        Job("bad", (), fail, (tmp_path,)),
        Job("after", ("bad",), note, (tmp_path, "after", ())),
    ]
    with pytest.raises(ShapeError, match=r"op: x: expected a, got b\. c") as caught:
        run_jobs(jobs, workers=2, tell=str)
    assert caught.value.argument == "x"
    assert (tmp_path / "long saved").exists()
    assert not (tmp_path / "after").exists()
    assert not multiprocessing.active_children()


def main(directory: Path) -> None:
    """A run that never ends, in a process of its own."""
    run_jobs([Job("one", (), train, (directory, "one"))], workers=2, tell=str)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    """A Ctrl-C, which reaches all processes of a terminal, and a parent that is killed."""
    code = (
        "from pathlib import Path; from tests.mopd.test_jobs import main; main(Path(sys.argv[1]))"
    )
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"]
    parent = subprocess.Popen(
        [*command, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE
    )
    began = tmp_path / "one began"
    until(lambda: began.exists() and bool(began.read_text()))
    worker = int(began.read_text())
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        parent.kill()
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == -number
    until(lambda: not alive(worker))
    assert (tmp_path / "one saved").exists()
    if number == signal.SIGINT:
        assert said.decode().rstrip().endswith("KeyboardInterrupt")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(
    "error",
    [
        ShapeError("op", "x", expected="a", got="b", remedy="c"),
        CheckpointError("file", "x", expected="a", got="b"),
        UnsupportedError("op", ["a", "b"], remedy="c"),
    ],
)
def test_errors_can_be_handed_on(error: ValueError) -> None:
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert vars(same) == vars(error)
