"""Two gloo processes, FSDP2 alone and with shared-out experts, against one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from mimo_native.pretrain import PretrainConfig, run
from mimo_native.training import Checkpoints, OptimizerConfig, read_metrics

from .test_run import config, final, saved


def run_on_two(cut: PretrainConfig, path: Path) -> None:
    path.write_text(json.dumps(cut.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "mimo_native.cli.main", "pretrain", str(path), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("experts", "kind"),
    [(1, "adamw"), (2, "adamw"), (2, "muon")],
    ids=["fsdp", "fsdp-ep", "fsdp-ep-muon"],
)
def test_two_processes_equal_one(
    tmp_path: Path, experts: int, kind: Literal["adamw", "muon"]
) -> None:
    common = {"steps": 3, "loads_every": 1, "optimizer": OptimizerConfig(kind=kind)}
    one = config(tmp_path, "one", **common)
    two = config(tmp_path, "two", expert_parallel=experts, **common)
    run(one)
    run_on_two(two, tmp_path / "two.json")
    for a, b in zip(
        read_metrics(one.output, "step"), read_metrics(two.output, "step"), strict=True
    ):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["mtp"] == pytest.approx(b["mtp"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
        assert a["zero_grads"] == pytest.approx(b["zero_grads"], abs=1e-3)
        # Every rank's tokens count once, and move the bias alike.
        assert a["loads"] == b["loads"]
        assert a["bias_range"] == b["bias_range"]
    a, b = final(one.output), final(two.output)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5)

    # The checkpoint of two ranks opens on one, every expert in its place.
    before = saved(two.output)
    exported = final(two.output)
    assert run(config(tmp_path, "two", **common)).step == 3
    assert all(torch.equal(exported[name], tensor) for name, tensor in final(two.output).items())
    assert saved(two.output) == before
    assert Checkpoints(Path(two.output) / "checkpoints").latest().name == "step-00000003"


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path, first: int) -> None:
    """Two steps on one or two ranks that share the experts, the rest on the other number."""
    whole = config(tmp_path, "whole", steps=3)
    run(whole)
    alone, shared = (config(tmp_path, "cut", steps=3, expert_parallel=n) for n in (1, 2))
    if first == 1:
        run(alone)
    else:
        run_on_two(shared, tmp_path / "cut.json")
    # As a crash in step 3 leaves it: the checkpoint of step 2 is the newest.
    shutil.rmtree(Path(alone.output) / "checkpoints" / "step-00000003")
    shutil.rmtree(Path(alone.output) / "final")
    if first == 1:
        run_on_two(shared, tmp_path / "cut.json")
    else:
        run(alone)
    assert [line["step"] for line in read_metrics(alone.output, "step")] == [1, 2, 3]
    a, b = final(whole.output), final(alone.output)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5)
