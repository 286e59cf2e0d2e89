"""Adapters in post-training: the sampler is still the policy, the weights stay, runs go on."""

import json
from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native import mopd
from mimo_native.mopd import Domain, LossConfig, MopdConfig, SftConfig
from mimo_native.mopd.run import _Mopd
from mimo_native.pretrain import SaveConfig
from mimo_native.text import Tokenizer
from mimo_native.training import LoRAConfig, read_metrics
from mimo_native.training.distributed import Ranks
from mimo_native.training.state import copy_tokenizer

from .models import REWARDS, checkpoint, config
from .test_run import final, same_run

LORA = LoRAConfig(rank=4, alpha=8.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sampler_has_the_adapters_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    run = config(tmp_path, dtype=dtype, lora=LORA, loss=LossConfig(form="full"), lr=2e-2)
    mopd.run(run, rewards=REWARDS)
    lines = read_metrics(run.output, "step")
    assert [line["largest_mismatch"] for line in lines] == [0.0] * 3
    # The model itself teaches b: where adapters are new it agrees, afterwards they have moved.
    gaps = [line["domains"]["b"]["gap"] for line in lines]
    assert gaps[0] == 0.0
    assert gaps[2] != 0.0


@pytest.mark.parametrize("stage", ["sft", "mopd"])
def test_only_what_has_an_adapter_changes(tmp_path: Path, stage: str) -> None:
    run = config(tmp_path, lora=LORA, lr=2e-2)
    if stage == "sft":
        domains = {name: Domain(prompts=d.prompts) for name, d in run.domains.items()}
        fields = ("output", "init", "steps", "prompts_per_step", "lr", "lora", "dtype")
        mopd.sft(SftConfig(**{name: getattr(run, name) for name in fields}, domains=domains))
    else:
        mopd.run(run, rewards=REWARDS)
    before = mn.MiMoForCausalLM.from_pretrained(run.init, dtype=torch.float32).unpack()
    first, after = before.state_dict(), final(run.output)
    moved = {name for name, t in after.items() if not torch.equal(t, first[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in moved
    assert all(name.endswith("_proj.weight") for name in moved)


def test_a_run_goes_on_and_other_adapters_are_refused(tmp_path: Path) -> None:
    save = SaveConfig(every=1)
    whole, cut = (config(tmp_path, n, steps=4, lora=LORA, save=save) for n in ("whole", "cut"))
    assert MopdConfig.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    mopd.run(whole, rewards=REWARDS)
    mopd.run(config(tmp_path, "cut", steps=2, lora=LORA, save=save), rewards=REWARDS)
    mopd.run(cut, rewards=REWARDS)
    same_run(whole.output, cut.output)
    for other in (None, LoRAConfig(rank=2, alpha=8.0)):
        with pytest.raises(mn.CheckpointError, match="lora"):
            mopd.run(config(tmp_path, "cut", steps=5, lora=other), rewards=REWARDS)
    # A recipe without adapters is what it was before there were any.
    assert "lora" not in config(tmp_path).recipe()


@pytest.mark.parametrize("form", ["sampled", "full"])
def test_an_adapter_teaches_as_the_model_with_it(tmp_path: Path, form: str) -> None:
    teacher = config(tmp_path, "specialist", lora=LORA, lr=2e-2, dtype="bfloat16")
    mopd.run(teacher, rewards=REWARDS)
    fields = {"dtype": "bfloat16", "steps": 2, "loss": LossConfig(form=form)}
    runs = [
        config(tmp_path, name, teachers={"t": f"{teacher.output}/{name}"}, **fields)
        for name in ("final", "final-adapter")
    ]
    for run in runs:
        mopd.run(run, rewards=REWARDS)
    assert read_metrics(runs[0].output, "step")[0]["initial_kl"]["a"] != 0.0
    same_run(runs[0].output, runs[1].output)


def test_an_adapter_is_known_by_its_base_too(tmp_path: Path) -> None:
    """A resumed run that starts from other weights has another teacher."""
    mopd.run(config(tmp_path, "specialist", lora=LORA, steps=1), rewards=REWARDS)
    teachers = {"t": str(tmp_path / "specialist/final-adapter")}
    domains = {"a": Domain(prompts=str(tmp_path / "a.jsonl"), teacher="t")}
    fields = {"teachers": teachers, "domains": domains}
    mopd.run(config(tmp_path, steps=1, **fields))
    other = checkpoint(tmp_path / "other", seed=3)
    with pytest.raises(mn.CheckpointError, match=r"teachers\.t"):
        mopd.run(config(tmp_path, steps=2, init=other, **fields))


def test_several_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(mn.UnsupportedError, match="adapters with several processes"):
        _Mopd(config(tmp_path, lora=LORA), dict(REWARDS), Ranks(world=2))


def test_a_gguf_file_hands_on_its_tokenizer(smollm2_path: Path, tmp_path: Path) -> None:
    copy_tokenizer(smollm2_path, tmp_path)
    text = "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
    one, two = (Tokenizer.from_pretrained(path) for path in (smollm2_path, tmp_path))
    assert one.encode(text) == two.encode(text)
    assert one.eos_ids == two.eos_ids
