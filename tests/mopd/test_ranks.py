"""Two gloo processes against one, and teachers that would not fit together."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mimo_native import mopd
from mimo_native.mopd import LossConfig
from mimo_native.training import read_metrics

from .models import checkpoint, config
from .test_run import final


@pytest.mark.parametrize("experts", [1, 2], ids=["fsdp", "fsdp-ep"])
def test_two_processes_equal_one(tmp_path: Path, experts: int) -> None:
    fields = {"loss": LossConfig(alpha=0.5), "rollouts_per_prompt": 2, "mtp_weight": 0.1}
    one = config(tmp_path, "one", **fields)
    domains = {name: replace(d, reward="exact") for name, d in one.domains.items()}
    one = replace(one, domains=domains)
    two = replace(one, output=str(tmp_path / "two"), expert_parallel=experts)
    mopd.run(one)
    (tmp_path / "two.json").write_text(json.dumps(two.to_dict()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += ["2", "-m", "mimo_native.cli.main", "mopd", str(tmp_path / "two.json"), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    a, b = (read_metrics(run.output, "step") for run in (one, two))
    for x, y in zip(a, b, strict=True):
        assert x["tokens"] == y["tokens"]
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-4, abs=1e-6)
        assert x["mtp"] == pytest.approx(y["mtp"], rel=1e-5)
        assert x["domains"]["a"]["gap"] == pytest.approx(y["domains"]["a"]["gap"], rel=1e-4)
    for name, tensor in final(one.output).items():
        torch.testing.assert_close(tensor, final(two.output)[name], rtol=0, atol=1e-5)


_MEASURE = """
import resource, sys, threading, time
import torch
from mimo_native import mopd
config = mopd.MopdConfig.read(sys.argv[1])
pages = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
largest, done = 0, False
def watch():
    global largest
    while not done:
        largest = max(largest, pages())
        time.sleep(0.002)
from mimo_native.mopd.teachers import Teachers
score, before = Teachers.score, []
def measured(self, rollouts):
    global largest, done
    before.append(pages())
    largest, done = 0, False
    thread = threading.Thread(target=watch)
    thread.start()
    heads = score(self, rollouts)
    done = True
    thread.join()
    print(largest - before[-1])
    return heads
Teachers.score = measured
mopd.run(config)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_teachers_of_four_times_the_memory(tmp_path: Path) -> None:
    """Twelve teachers of one size never take what three would."""
    wide = {"vocab_size": 256, "intermediate_size": 40_000}
    run = config(tmp_path, steps=2, prompts_per_step=12)
    names = [f"t{i}" for i in range(12)]
    for i, name in enumerate(names):
        checkpoint(tmp_path / name, seed=i, **wide)
    size = sum(file.stat().st_size for file in (tmp_path / "t0").glob("*.safetensors"))
    one = next(iter(run.domains.values()))
    run = replace(
        run,
        teachers={name: str(tmp_path / name) for name in names},
        domains={name: replace(one, teacher=name, reward=None) for name in names},
    )
    (tmp_path / "run.json").write_text(json.dumps(run.to_dict()))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEASURE, str(tmp_path / "run.json")],
        capture_output=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    taken = [int(line) for line in done.stdout.split()]
    assert len(taken) == 2
    assert max(taken) < 3.0 * size
