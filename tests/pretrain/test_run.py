"""Whole runs of a tiny model: resuming bit for bit, stopping, and refusing bad input."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.distributed.checkpoint import filesystem

import mimo_native as mn
from mimo_native.pretrain import Losses, Objective, PretrainConfig, SaveConfig, run
from mimo_native.training import (
    Checkpoints,
    OptimizerConfig,
    Piece,
    Schedule,
    Stage,
    TokenWriter,
    read_metrics,
)

from .models import tiny

STEPS = 6


def corpus(path: Path, documents: list[list[int]], vocab_size: int = 256) -> str:
    with TokenWriter(path / "train", vocab_size=vocab_size) as writer:
        for document in documents:
            writer.add(document, text_bytes=len(document))
    return str(path)


def config(
    tmp_path: Path, name: str = "run", steps: int = STEPS, **changes: object
) -> PretrainConfig:
    data = tmp_path / "data"
    if not data.exists():
        corpus(data, [[(7 * d + i) % 256 for i in range(5 + d % 9)] for d in range(60)])
    tokens = 32 * steps
    schedule = Schedule(
        (
            Stage(
                name="s",
                tokens=tokens,
                seq_len=16,
                batch=2,
                lr=(Piece("cosine", tokens, 1e-3),),
                mixture={"c": 1.0},
            ),
        ),
        lr_start=3e-3,
    )
    model = tiny(hybrid_layer_pattern=(0, 1), moe_layer_freq=(0, 1), num_mtp_layers=1)
    fields = {
        "output": str(tmp_path / name),
        "data": {"c": str(data)},
        "schedule": schedule,
        "model": model,
        "init_std": 0.05,
        "backend": "reference",
        "save": SaveConfig(every=2),
    }
    return PretrainConfig(**(fields | changes))


def curve(output: str) -> list[tuple]:
    names = ("step", "loss", "mtp", "aux", "grad_norm", "lr", "zero_grads", "bias_range")
    return [tuple(str(line[n]) for n in names) for line in read_metrics(output, "step")]


def final(output: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted(Path(output, "final").glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def same_run(one: str, two: str) -> None:
    assert curve(one) == curve(two)
    a, b = final(one), final(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_config_survives_json(tmp_path: Path) -> None:
    one = config(tmp_path)
    assert PretrainConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", "adamw"), ("bfloat16", "adamw"), ("bfloat16", "muon")]
)
def test_resume_is_bitwise(
    tmp_path: Path,
    dtype: Literal["float32", "bfloat16"],
    kind: Literal["adamw", "muon"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = {"dtype": dtype, "optimizer": OptimizerConfig(kind=kind)}
    whole = config(tmp_path, "whole", **common)
    assert run(whole).status == "finished"
    cut = config(tmp_path, "cut", **common)
    forward, calls = Objective.forward, []

    def crash(self: Objective, *args: object) -> Losses:
        calls.append(1)
        if len(calls) == 7:  # in step 4, after the checkpoint of step 2
            raise KeyboardInterrupt
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", crash)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
    assert run(cut).step == STEPS
    same_run(whole.output, cut.output)


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "mimo_native.cli.main", "pretrain", str(path), "--json"]
    # One thread, as here: torch's sums, the gradient norm's say, depend on their number.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def wait_for_step(output: str, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = Path(output, "metrics.jsonl")
        if log.exists() and log.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError("the run did not get there")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_signals(tmp_path: Path, number: int) -> None:
    whole = config(tmp_path, "whole", steps=40)
    run(whole)
    cut = config(tmp_path, "cut", steps=40)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(cut.to_dict()))
    process = start(path)
    wait_for_step(cut.output, 5)
    time.sleep(random.SystemRandom().uniform(0.0, 0.15))  # anywhere within some steps
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert process.returncode == 0, err
        stopped = json.loads(out)
        latest = Checkpoints(Path(cut.output) / "checkpoints").latest()
        assert stopped["status"] == "stopped"
        assert latest.name == f"step-{stopped['step']:08d}"
    assert run(cut).status == "finished"
    same_run(whole.output, cut.output)


def saved(output: str) -> dict[str, bytes]:
    root = Path(output) / "checkpoints"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    run(config(tmp_path, steps=2))
    other = config(tmp_path, steps=2, seed=1)
    before = saved(other.output)
    with pytest.raises(mn.CheckpointError, match=r"recipe.seed: expected 1, .* got 0"):
        run(other)
    assert saved(other.output) == before


@pytest.mark.parametrize(("part", "named"), [("main", "loss"), ("loss", "gradient")])
def test_a_loss_that_is_no_number(
    tmp_path: Path, part: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(tmp_path, steps=2))
    before = saved(config(tmp_path).output)
    forward = Objective.forward

    def broken(self: Objective, *args: object) -> Losses:
        losses = forward(self, *args)
        return losses._replace(**{part: getattr(losses, part) * float("nan")})

    monkeypatch.setattr(Objective, "forward", broken)
    fresh = config(tmp_path, "other", save=SaveConfig(every=1))
    with pytest.raises(FloatingPointError, match=f"{named}: expected a finite number at step 1"):
        run(fresh)
    assert saved(fresh.output) == {}
    assert saved(config(tmp_path).output) == before


def test_full_disk_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, writes = config(tmp_path), []
    write = filesystem._write_item

    def no_space(*args: object, **options: object) -> object:
        writes.append(1)
        if (Path(cut.output) / "checkpoints" / "step-00000002").exists():
            raise OSError(28, "No space left on device")
        return write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "_write_item", no_space)
        with pytest.raises(mn.CheckpointError, match="No space left"):
            run(cut)
    assert Checkpoints(Path(cut.output) / "checkpoints").latest().name == "step-00000002"
    run(cut)
    whole = config(tmp_path, "whole")
    run(whole)
    same_run(whole.output, cut.output)


@pytest.mark.parametrize("vocab_size", [300, 256])
def test_ids_outside_the_vocabulary(tmp_path: Path, vocab_size: int) -> None:
    """By the corpus's own vocabulary before training; by the ids where that lies."""
    corpus(tmp_path / "bad", [[1, 2, 299, 4, 5, 6]] * 20, 300)
    if vocab_size == 256:
        meta = tmp_path / "bad" / "train" / "meta.json"
        meta.write_text(meta.read_text().replace('"vocab_size": 300', '"vocab_size": 256'))
    with pytest.raises(mn.ShapeError, match=r"corpus 'c': expected token ids in \[0, 256\)"):
        run(config(tmp_path, data={"c": str(tmp_path / "bad")}))


def test_documents_shorter_than_the_reach_of_the_heads(tmp_path: Path) -> None:
    corpus(tmp_path / "short", [[1, 2]] * 50)
    with pytest.raises(mn.ShapeError, match="at least 3 tokens, the reach of 1 MTP heads"):
        run(config(tmp_path, data={"c": str(tmp_path / "short")}))


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(mn.CheckpointError):
        run(config(tmp_path, data={"c": str(tmp_path / "nothing")}))
    assert not (tmp_path / "run").exists()


def test_corpora_that_nothing_names(tmp_path: Path) -> None:
    with pytest.raises(mn.ShapeError, match="corpora that the mixtures name"):
        replace(config(tmp_path), data={"d": "x"})
