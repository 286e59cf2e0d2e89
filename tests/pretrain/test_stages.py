"""Runs of several stages, from a checkpoint, with copied heads, and of heads alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mimo_native as mn
from mimo_native.pretrain import EvalConfig, Losses, Objective, PretrainConfig, SaveConfig, run
from mimo_native.training import Piece, Schedule, Stage, TokenWriter, read_metrics

from .models import tiny
from .test_run import config, final, same_run


def stage(name: str, steps: int, **changes: object) -> Stage:
    tokens = 32 * steps
    fields = {
        "name": name,
        "tokens": tokens,
        "seq_len": 16,
        "batch": 2,
        "lr": (Piece("constant", tokens, 1e-3),),
        "mixture": {"c": 1.0},
    }
    return Stage(**(fields | changes))


def long_context(tmp_path: Path, name: str) -> PretrainConfig:
    """Four steps, then longer rows, another RoPE base, a smaller MTP weight, and a batch ramp."""
    stages = (
        stage("short", 4, rope_theta=1e4, mtp_weight=0.3),
        stage(
            "long",
            4,
            seq_len=32,
            batch=2,
            batch_start=1,
            batch_ramp_tokens=64,
            rope_theta=5e6,
            mtp_weight=0.1,
            bias_rate=1e-5,
        ),
    )
    return config(tmp_path, name, schedule=Schedule(stages, lr_start=1e-3))


def test_context_extension(tmp_path: Path) -> None:
    whole = long_context(tmp_path, "whole")
    run(whole)
    lines = read_metrics(whole.output, "step")
    assert [line["stage"] for line in lines] == ["short"] * 4 + ["long"] * 3
    assert [line["rows"] for line in lines] == [2, 2, 2, 2, 1, 1, 2]  # the ramp of the second
    exported = json.loads(Path(whole.output, "final", "config.json").read_text())
    assert exported["rope_theta"] == 5e6
    model = mn.MiMoForCausalLM.from_pretrained(Path(whole.output, "final"), dtype=torch.float32)
    assert {layer.self_attn.config.rope_theta for layer in model.model.layers
            if not layer.self_attn.config.window_keys} == {5e6}  # fmt: skip
    # The base matters: the same stages without the change end elsewhere.
    same = replace(
        whole,
        output=str(tmp_path / "same"),
        schedule=Schedule((whole.schedule.stages[0], replace(whole.schedule.stages[1],
                                                             rope_theta=1e4)), 1e-3),
    )  # fmt: skip
    run(same)
    other = read_metrics(same.output, "step")
    assert [a["loss"] for a in lines[:4]] == [b["loss"] for b in other[:4]]
    assert lines[4]["loss"] != other[4]["loss"]


@pytest.mark.parametrize("calls", [7, 9, 10])
def test_resuming_at_a_change_of_stage(
    tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before, at and behind the border: the second run enters the right stage."""
    whole, cut = long_context(tmp_path, "whole"), long_context(tmp_path, "cut")
    run(whole)
    forward, seen = Objective.forward, []

    def crash(self: Objective, *args: object) -> Losses:
        seen.append(1)
        if len(seen) == calls:
            raise KeyboardInterrupt
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", crash)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
    run(cut)
    same_run(whole.output, cut.output)


def base_checkpoint(tmp_path: Path) -> Path:
    model = mn.MiMoForCausalLM(
        tiny(hybrid_layer_pattern=(0, 1), moe_layer_freq=(0, 1), num_mtp_layers=1)
    ).init_weights(std=0.05, seed=9)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(directory.glob("*.safetensors")) for k, v in
            load_file(file).items()}  # fmt: skip


def test_heads_alone_from_a_checkpoint(tmp_path: Path) -> None:
    base = base_checkpoint(tmp_path)
    before = tensors(base)
    settings = config(
        tmp_path, model=None, init=str(base), mtp_heads=3, mtp_only=True, boundary=None or
        mn.pretrain.Boundary.detached()
    )  # fmt: skip
    assert run(settings).status == "finished"
    after = final(settings.output)
    exported = json.loads(Path(settings.output, "final", "config.json").read_text())
    assert mn.MiMoConfig.from_dict(exported).num_mtp_layers == 3
    for name, tensor in after.items():
        if ".mtp." not in name:
            assert torch.equal(tensor, before[name]), name  # balancing bias and head included
    heads = [after[f"model.mtp.layers.{k}.eh_proj.weight"] for k in range(3)]
    assert not torch.equal(heads[0], before["model.mtp.layers.0.eh_proj.weight"])
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    lines = read_metrics(settings.output, "step")
    assert all(len(line["mtp"]) == 3 for line in lines)


def test_heads_trained_jointly_move_the_trunk_as_the_boundary_says(tmp_path: Path) -> None:
    base = base_checkpoint(tmp_path)
    before = tensors(base)
    embedding = "model.embed_tokens.weight"
    joint = config(tmp_path, "joint", steps=2, model=None, init=str(base), mtp_heads=3)
    cut = replace(joint, output=str(tmp_path / "cut"), boundary=mn.pretrain.Boundary.detached())
    run(joint)
    run(cut)
    a, b = final(joint.output), final(cut.output)
    assert not torch.equal(a[embedding], before[embedding])
    assert not torch.equal(b[embedding], before[embedding])
    assert not torch.equal(a[embedding], b[embedding])


def test_the_best_by_acceptance_is_kept(tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        eval=EvalConfig(every=3, rows=2, prompts=2, prompt_tokens=3, new_tokens=6),
        loads_every=1,
        save=SaveConfig(every=3, keep=3, asynchronous=True),
    )
    with TokenWriter(tmp_path / "data" / "heldout", vocab_size=256) as writer:
        for d in range(4):
            writer.add([(7 * d + i) % 256 for i in range(12)], text_bytes=12)
    run(settings)
    evals = read_metrics(settings.output, "eval")
    assert [line["step"] for line in evals] == [3, 6]
    assert all(line["accept_length"] >= 1 for line in evals)
    assert set(evals[0]["domains"]) == {"c"}
    best = max(evals, key=lambda line: line["accept_length"])
    kept = tensors(Path(settings.output, "best"))
    assert kept.keys() == final(settings.output).keys()
    if best["step"] == 6:
        assert all(torch.equal(kept[n], t) for n, t in final(settings.output).items())
    assert read_metrics(settings.output, "step")[0]["loads"]


def test_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    settings = config(tmp_path, model=None, init=str(tmp_path / "nothing"))
    with pytest.raises(mn.CheckpointError):
        run(settings)
    assert not Path(settings.output).exists()
