"""Whole runs of a tiny model: on-policy bit for bit, teachers by domain, resuming, bad input."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native import mopd
from mimo_native.mopd import Domain, LossConfig, MopdConfig, SftConfig
from mimo_native.mopd.objective import PolicyObjective
from mimo_native.pretrain import SaveConfig
from mimo_native.training import read_metrics

from .models import REWARDS, checkpoint, config, prompt_file


def steps(run: MopdConfig) -> list[dict]:
    return read_metrics(run.output, "step")


def final(output: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted(Path(output, "final").glob("*.safetensors"))
    return {name: t for file in files for name, t in load_file(file).items()}


def same_run(one: str, two: str) -> None:
    a, b = final(one), final(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [
        [{k: v for k, v in line.items() if k not in ("seconds", "times")} for line in part]
        for part in (read_metrics(one, "step"), read_metrics(two, "step"))
    ]
    assert json.dumps(lines[0]) == json.dumps(lines[1])


def test_config_survives_json(tmp_path: Path) -> None:
    one = config(tmp_path, loss=LossConfig(alpha=0.5), rollouts_per_prompt=2)
    assert MopdConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sampler_is_the_policy_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    """Same weights and format: log mu is log pi, the self teacher's gap is 0 before training."""
    run = config(tmp_path, dtype=dtype, steps=2, loss=LossConfig(alpha=0.5), rollouts_per_prompt=3)
    assert mopd.run(run, rewards=REWARDS).status == "finished"
    for line in steps(run):
        assert line["largest_mismatch"] == 0.0
        assert line["masked"] == 0.0
    assert steps(run)[0]["initial_kl"]["b"] == 0.0
    assert steps(run)[0]["domains"]["b"]["gap_std"] == 0.0
    # The other teacher is a stranger, and the run says so.
    assert steps(run)[0]["initial_kl"]["a"] > 0.0


def test_a_stranger_is_warned_about(tmp_path: Path) -> None:
    checkpoint(tmp_path / "stranger", seed=11)
    run = config(tmp_path, steps=1, teachers={"t": str(tmp_path / "stranger")})
    with pytest.warns(UserWarning, match="initial KL"):
        mopd.run(run, rewards=REWARDS)


def mismatch(tmp_path: Path, name: str, **changes: object) -> float:
    run = config(tmp_path, name, steps=1, **changes)
    mopd.run(run, rewards=REWARDS)
    return steps(run)[0]["mismatch"]


def test_replay_lowers_the_mismatch_of_another_sampler(tmp_path: Path) -> None:
    """An int8 sampler routes some tokens elsewhere; training with its experts is nearer to it."""
    kept = {"rollout_format": "int8_row", "prompts_per_step": 12, "max_new_tokens": 40}
    with_replay = mismatch(tmp_path, "replayed", **kept)
    without = mismatch(tmp_path, "free", replay=False, **kept)
    assert 0.0 < with_replay < without


def test_distillation_moves_towards_the_teacher(tmp_path: Path) -> None:
    domains = {"a": Domain(prompts=str(tmp_path / "a.jsonl"), teacher="t")}
    run = config(tmp_path, domains=domains, steps=30, prompts_per_step=12, lr=3e-3)
    run = replace(run, loss=LossConfig(form="full"))
    mopd.run(run)
    kl = [-line["domains"]["a"]["gap"] for line in steps(run)]
    assert sum(kl[-5:]) < 0.6 * sum(kl[:5])


def test_rewards_alone_are_learned(tmp_path: Path) -> None:
    """GRPO: the share of even tokens grows."""

    def even(completion: Sequence[int] | str, answer: object, prompt: object) -> float:
        return sum(int(token) % 2 == 0 for token in completion) / max(len(completion), 1)

    config(tmp_path)
    domains = {"a": Domain(prompts=str(tmp_path / "a.jsonl"), reward="even")}
    run = config(
        tmp_path,
        domains=domains,
        loss=LossConfig(alpha=1.0),
        rollouts_per_prompt=8,
        prompts_per_step=8,
        steps=25,
        lr=3e-3,
    )
    mopd.run(run, rewards={"even": even})
    rewards = [line["domains"]["a"]["reward"] for line in steps(run)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.15


def test_the_domain_decides_the_teacher(tmp_path: Path) -> None:
    one = config(tmp_path, "one", steps=1)
    swapped = {
        name: replace(d, teacher="self" if d.teacher == "t" else "t")
        for name, d in one.domains.items()
    }
    two = config(tmp_path, "two", steps=1, domains=swapped)
    mopd.run(one, rewards=REWARDS)
    mopd.run(two, rewards=REWARDS)
    a, b = steps(one)[0], steps(two)[0]
    assert a["loss"] != b["loss"]
    assert a["domains"]["b"]["gap"] == 0.0
    assert b["domains"]["a"]["gap"] == 0.0


def test_speculative_rollouts_are_the_same(tmp_path: Path) -> None:
    one, two = config(tmp_path, "one"), config(tmp_path, "two", speculative="tree")
    mopd.run(one, rewards=REWARDS)
    mopd.run(two, rewards=REWARDS)
    same_run(one.output, two.output)


def test_micro_batches_and_recompute_change_nothing_but_memory(tmp_path: Path) -> None:
    one = config(tmp_path, "one", mtp_weight=0.2)
    two = replace(one, output=str(tmp_path / "two"), micro_tokens=7, recompute=True)
    mopd.run(one, rewards=REWARDS)
    mopd.run(two, rewards=REWARDS)
    for a, b in zip(steps(one), steps(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4, abs=1e-6)
        assert a["mtp"] == pytest.approx(b["mtp"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_is_bitwise(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"dtype": dtype, "steps": 4, "save": SaveConfig(every=1)}
    fields |= {"loss": LossConfig(alpha=0.5), "rollouts_per_prompt": 2}
    whole, cut = config(tmp_path, "whole", **fields), config(tmp_path, "cut", **fields)
    mopd.run(whole, rewards=REWARDS)
    forward, calls = PolicyObjective.forward, []

    def crash(self: PolicyObjective, *args: object) -> object:
        calls.append(1)
        if len(calls) == 6:  # in step 3, after the first of its two micro-batches
            raise KeyboardInterrupt
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyObjective, "forward", crash)
        with pytest.raises(KeyboardInterrupt):
            mopd.run(cut, rewards=REWARDS)
    assert [line["step"] for line in steps(cut)] == [1, 2]
    assert mopd.run(cut, rewards=REWARDS).step == 4
    same_run(whole.output, cut.output)


def test_no_prompt_is_skipped_or_repeated(tmp_path: Path) -> None:
    """Every prompt of a domain comes once an epoch, whatever the steps are cut into."""
    from mimo_native.mopd.prompts import Prompt, PromptStream

    own = {n: [Prompt(n, i, (i,), None, [i], None) for i in range(7)] for n in "ab"}
    domains = {"a": Domain(prompts="", weight=3.0), "b": Domain(prompts="")}
    stream = PromptStream(own, domains, per_step=4, seed=5)
    assert stream.counts == {"a": 3, "b": 1}
    seen = [p.index for n in range(7) for p in stream.step(n) if p.domain == "a"]
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert seen[:7] != seen[7:14]


def test_another_teacher_stops_a_resumed_run(tmp_path: Path) -> None:
    run = config(tmp_path, steps=1)
    mopd.run(run, rewards=REWARDS)
    shutil.rmtree(tmp_path / "teacher")
    checkpoint(tmp_path / "teacher", seed=8)
    with pytest.raises(mn.CheckpointError, match=r"teachers\.t"):
        mopd.run(replace(run, steps=2), rewards=REWARDS)


def raising(completion: object, answer: object, prompt: object) -> float:
    raise OSError("no verifier here")


def nan(completion: object, answer: object, prompt: object) -> float:
    return math.nan


@pytest.mark.parametrize("reward", [raising, nan])
def test_a_bad_reward(tmp_path: Path, reward: object) -> None:
    run = config(tmp_path, steps=1)
    with pytest.raises(mn.ShapeError, match=r"reward of domain 'a'.*skip"):
        mopd.run(run, rewards={"length": reward})
    assert not (Path(run.output) / "checkpoints").exists()
    mopd.run(replace(run, on_bad="skip"), rewards={"length": reward})
    [line] = steps(run)
    assert line["skipped"] == 2
    assert set(line["domains"]) == {"b"}


def test_nothing_left(tmp_path: Path) -> None:
    run = config(tmp_path, steps=1, on_bad="skip")
    run = replace(run, domains={"a": run.domains["a"]})
    with pytest.raises(mn.ShapeError, match="all were skipped"):
        mopd.run(run, rewards={"length": nan})


def test_a_prompt_beyond_the_context(tmp_path: Path) -> None:
    run = config(tmp_path, steps=1, prompts_per_step=14)
    limit = mn.MiMoConfig.from_pretrained(run.init).max_position_embeddings
    with (tmp_path / "a.jsonl").open("a") as file:
        for longer in (limit - 4, limit + 1):  # no room for an answer, and none for itself
            file.write(json.dumps({"prompt": [3] * longer, "answer": [4]}) + "\n")
    with pytest.raises(mn.ShapeError, match=r"domain 'a', prompt 6: .*positions"):
        mopd.run(run, rewards=REWARDS)
    run = replace(run, on_bad="skip", prompts_per_step=16)
    mopd.run(run, rewards=REWARDS)
    assert steps(run)[0]["skipped"] == 2
    assert steps(run)[0]["sequences"] == 14


def test_a_heldout_prompt_is_not_skipped(tmp_path: Path) -> None:
    """Scores are of all of them: one that cannot be scored stops the run before it trains."""
    run = config(tmp_path, steps=1, on_bad="skip")
    limit = mn.MiMoConfig.from_pretrained(run.init).max_position_embeddings
    heldout = tmp_path / "heldout.jsonl"
    a = replace(run.domains["a"], heldout=str(heldout))
    for reward, prompt, named in (
        ("length", {"prompt": [3] * (limit - 4)}, "positions"),
        ("exact", {"prompt": [3]}, "an answer"),
    ):
        heldout.write_text(json.dumps(prompt) + "\n")
        domains = {"a": replace(a, reward=reward)}
        with pytest.raises(mn.ShapeError, match=rf"domain 'a', prompt 0: .*{named}"):
            mopd.run(replace(run, domains=domains), rewards=REWARDS)
    assert not Path(run.output).exists()


def test_a_prompt_without_the_answer_that_its_verifier_needs(tmp_path: Path) -> None:
    """Every rollout of it would be wrong: never a silent zero."""
    run = config(tmp_path, steps=1, prompts_per_step=14)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": [3, 4]}) + "\n")
    run = replace(run, domains=run.domains | {"a": replace(run.domains["a"], reward="exact")})
    with pytest.raises(mn.ShapeError, match="domain 'a', prompt 6: expected an answer"):
        mopd.run(run)
    mopd.run(replace(run, on_bad="skip"))
    assert steps(run)[0]["skipped"] == 1


def test_an_empty_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine always gives a token; a sampler that does not is not taken for a short answer."""
    from mimo_native.mopd import rollout

    def empty(*args: object, **options: object) -> list:
        first, *others = generate(*args, **options)
        return [replace(first, token_ids=[], logprobs=[], routing=None), *others]

    generate = rollout.generate
    monkeypatch.setattr(rollout, "generate", empty)
    run = config(tmp_path, steps=1)
    with pytest.raises(mn.ShapeError, match=r"domain 'a', prompt .*an empty one"):
        mopd.run(run, rewards=REWARDS)
    mopd.run(replace(run, on_bad="skip"), rewards=REWARDS)
    assert steps(run)[0]["skipped"] == 1
    assert steps(run)[0]["sequences"] == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teachers": {"t": "nowhere"}}, "teacher 't': nowhere: expected .*on disk"),
        ({"teachers": {"t": "foreign"}}, "teacher 't': expected the student's vocabulary of 256"),
        ({"teachers": ["t"]}, "fields: expected those of MopdConfig"),
        ({"lrr": 1.0}, "fields: .*lrr"),
        ({"lr": "fast"}, "fields: expected those of MopdConfig"),
        ({"lr": -1.0}, "lr: expected a number > 0, got -1.0"),
        ({"loss": {"form": "top_k", "correction": None}}, "top k alone collapses"),
        ({"rollout_format": "int3"}, "no format 'int3'"),
        ({"on_bad": "ignore"}, "on_bad"),
    ],
)
def test_what_a_user_sees(
    tmp_path: Path, changes: dict, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names what is wrong, and the status of a wrong request."""
    from mimo_native.cli.main import main

    run = config(tmp_path)
    checkpoint(tmp_path / "foreign", vocab_size=512)
    content = run.to_dict() | changes
    if isinstance(content["teachers"], dict):
        content["teachers"] = {n: str(tmp_path / p) for n, p in content["teachers"].items()}
    content["domains"]["a"]["reward"] = "exact"
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert main(["mopd", str(tmp_path / "run.json")]) == 2
    line = capsys.readouterr().err.strip()
    assert re.search(named.replace("nowhere", str(tmp_path / "nowhere")), line), line
    assert "Traceback" not in line
    assert not Path(run.output).exists()


def test_all_tokens_masked(tmp_path: Path) -> None:
    narrow = LossConfig(ratio_low=1.0, ratio_high=1.0)
    run = config(tmp_path, steps=1, rollout_format="int8_row", loss=narrow)
    with pytest.raises(mn.ShapeError, match="outside of it at step 1"):
        mopd.run(run, rewards=REWARDS)
    mopd.run(replace(run, on_bad="skip"), rewards=REWARDS)
    assert steps(run)[0]["masked"] == 1.0


def test_forged_routing(tmp_path: Path) -> None:
    from mimo_native.mopd.prompts import Prompt
    from mimo_native.mopd.rollout import Rollout, check_routing

    run = config(tmp_path)
    model = mn.MiMoForCausalLM.from_pretrained(run.init, dtype=torch.float32)
    k, experts = model.config.num_experts_per_tok, model.config.n_routed_experts
    good = torch.arange(k, dtype=torch.uint8).repeat(1, 4, 1)
    prompt = Prompt("a", 0, (3, 4), None, [3, 4], None)

    def check(routing: torch.Tensor | None) -> None:
        rollout = Rollout(prompt, 0, (5, 6, 7), (0.0,) * 3, routing, False)
        check_routing(rollout, model)

    check(good)
    twice, unknown = good.clone(), good.clone()
    twice[0, 1] = 0
    unknown[0, 2, 0] = experts
    for routing in (None, good[:, :3], good[:, :, :1], twice, unknown):
        with pytest.raises(mn.ShapeError, match="routing"):
            check(routing)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"domains": {"a": Domain(prompts="a.jsonl", teacher="x")}}, "domain 'a': teacher"),
        ({"domains": {"a": Domain(prompts="a.jsonl")}}, "a teacher, or a reward"),
        ({"loss": LossConfig(alpha=0.1)}, "rollouts_per_prompt"),
        ({"domains": {}}, "domains"),
        ({"temperature": 0.0}, "temperature"),
        ({"on_bad": "ignore"}, "on_bad"),
        ({"steps": 0}, "steps"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_a_bad_configuration(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(mn.ShapeError, match=named):
        config(tmp_path, **changes)


def test_a_reward_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(mn.ShapeError, match="length"):
        mopd.run(config(tmp_path))


def test_a_missing_teacher(tmp_path: Path) -> None:
    run = config(tmp_path, teachers={"t": str(tmp_path / "nowhere")})
    with pytest.raises(mn.CheckpointError, match="nowhere"):
        mopd.run(run, rewards=REWARDS)


def test_a_teacher_of_another_vocabulary(tmp_path: Path) -> None:
    checkpoint(tmp_path / "foreign", vocab_size=512)
    run = config(tmp_path, teachers={"t": str(tmp_path / "foreign")})
    with pytest.raises(mn.ShapeError, match="vocabulary"):
        mopd.run(run, rewards=REWARDS)


def test_a_teacher_with_another_tokenizer(tmp_path: Path) -> None:
    import mimo_native

    run = config(tmp_path)
    text = (Path(mimo_native.__file__).parent / "assets/nano/tokenizer.json").read_text()
    (tmp_path / "student" / "tokenizer.json").write_text(text)
    (tmp_path / "teacher" / "tokenizer.json").write_text(text + "\n")
    with pytest.raises(mn.CheckpointError, match="the student's"):
        mopd.run(run, rewards=REWARDS)


def test_learning_rate() -> None:
    run = SftConfig(
        output="",
        init="",
        domains={"a": Domain(prompts="")},
        steps=10,
        prompts_per_step=1,
        lr=1.0,
        warmup=3,
        cooldown=3,
    )
    rates = [run.learning_rate(step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "at least one"),
        ("{", "line 1"),
        ('{"answer": [1]}', "line 1"),
        ('{"prompt": [1, 256]}', r"\[0, 256\)"),
        ('{"prompt": []}', "at least one token"),
        ('{"prompt": "text"}', "tokenizer"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, line: str, named: str) -> None:
    run = config(tmp_path)
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(mn.CheckpointError, match=named):
        mopd.run(run, rewards=REWARDS)


def test_sft_learns_and_needs_answers(tmp_path: Path) -> None:
    checkpoint(tmp_path / "student")
    domains = {"a": Domain(prompts=prompt_file(tmp_path / "a.jsonl"))}
    run = SftConfig(
        output=str(tmp_path / "sft"),
        init=str(tmp_path / "student"),
        domains=domains,
        steps=20,
        prompts_per_step=6,
        lr=3e-3,
        dtype="float32",
    )
    mopd.sft(run)
    losses = [line["loss"] for line in read_metrics(run.output, "step")]
    assert losses[-1] < 0.5 * losses[0]
    (tmp_path / "a.jsonl").write_text('{"prompt": [3]}\n')
    with pytest.raises(mn.ShapeError, match="answer"):
        mopd.sft(replace(run, output=str(tmp_path / "again")))
