"""Checkpoints are whole or absent, and come back bit for bit."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import filesystem

from mimo_native import CheckpointError
from mimo_native.training import Checkpoints


def state(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model": {
            "a": torch.randn(4, 3, generator=generator),
            "b": torch.randn(2, generator=generator).bfloat16(),
        },
        "optimizer": {"step.a": torch.tensor(float(seed))},
    }


def equal(one: dict, two: dict) -> bool:
    return all(torch.equal(one[part][name], two[part][name]) for part in one for name in one[part])


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, state(step), {})
    checkpoints.wait()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, keep=2, asynchronous=request.param)


def test_round_trip(checkpoints: Checkpoints) -> None:
    checkpoints.save(7, state(7), {"step": 7})
    checkpoints.wait()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000007"
    assert checkpoints.meta(latest) == {"step": 7}
    other = state(1)
    checkpoints.load(latest, other)
    assert equal(other, state(7))


def test_a_background_save_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, asynchronous=True)
    live = state(3)
    checkpoints.save(3, live, {})
    for part in live.values():
        for tensor in part.values():
            tensor.zero_()
    checkpoints.wait()
    other = state(1)
    checkpoints.load(tmp_path / "step-00000003", other)
    assert equal(other, state(3))


def test_the_newest_stay(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 10, 9):
        checkpoints.save(step, state(step), {})
    checkpoints.wait()
    assert [p.name for p in checkpoints.all()] == ["step-00000009", "step-00000010"]


def test_none_yet(checkpoints: Checkpoints) -> None:
    assert checkpoints.latest() is None


@pytest.mark.parametrize("leftover", [".saving-step-00000009", "step-00000009"])
def test_what_a_crash_leaves_is_no_checkpoint(checkpoints: Checkpoints, leftover: str) -> None:
    save(checkpoints, 4)
    shutil.copytree(checkpoints.directory / "step-00000004", checkpoints.directory / leftover)
    (checkpoints.directory / leftover / "meta.json").unlink()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000004"
    checkpoints.save(9, state(9), {})  # the debris is in nobody's way
    checkpoints.wait()
    assert checkpoints.latest().name == "step-00000009"


def test_full_disk(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    save(checkpoints, 4)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "_write_item", no_space)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(checkpoints, 5)
    assert [p.name for p in checkpoints.directory.iterdir()] == ["step-00000004"]
    other = state(1)
    checkpoints.load(checkpoints.latest(), other)
    assert equal(other, state(4))
    save(checkpoints, 5)
    assert checkpoints.latest().name == "step-00000005"


def test_damaged_file(checkpoints: Checkpoints) -> None:
    save(checkpoints, 4)
    file = checkpoints.latest() / "__0_0.distcp"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="expected a checkpoint of this run"):
        checkpoints.load(checkpoints.latest(), state(1))


@pytest.mark.parametrize("change", ["shape", "name"])
def test_other_model(checkpoints: Checkpoints, change: str) -> None:
    save(checkpoints, 4)
    other = state(1)
    if change == "shape":
        other["model"]["a"] = torch.zeros(5, 3)
    else:
        other["model"]["c"] = torch.zeros(1)
    with pytest.raises(CheckpointError):
        checkpoints.load(checkpoints.latest(), other)
