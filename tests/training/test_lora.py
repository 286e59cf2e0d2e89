"""Adapters: gradients by the chain rule, merging without a changed bit, runs that go on."""

from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native.pretrain import Objective, PretrainConfig, Totals, Weights, run
from mimo_native.pretrain.state import build_model
from mimo_native.training import Checkpoints, LoRAConfig, attach_lora, merge_lora
from mimo_native.training.lora import AdaptedWeight

from ..pretrain.models import micro_batch, random_model, random_rows, tiny
from ..pretrain.test_run import config, curve, final

LORA = LoRAConfig(rank=3, alpha=1.5, targets=("qkv", "o", "gate_up", "down", "eh"))


def adapted(dtype: torch.dtype = torch.float64) -> mn.MiMoForCausalLM:
    model = random_model(tiny(), dtype=dtype)
    attach_lora(model, LORA)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, module in weights(model):
            module.b.copy_(0.1 * torch.randn(module.b.shape, generator=generator))
    return model


def weights(model: mn.MiMoForCausalLM) -> list[tuple[str, AdaptedWeight]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, AdaptedWeight)]


def backward(model: mn.MiMoForCausalLM, *, recompute: bool = False) -> torch.Tensor:
    batch = micro_batch(random_rows([[7, 5], [12]]))
    totals = Totals.of(Totals.count([batch], 3))
    with mn.backends.use("reference"):
        losses = Objective(model, recompute=recompute)(batch, totals, Weights(0.3, 0.01))
        losses.loss.backward()
    return losses.loss.detach()


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_factors(recompute: bool) -> None:
    """Of the whole matrices' gradients, which tests/pretrain holds against another formula."""
    model, whole = adapted(), adapted()
    merge_lora(whole)
    whole.requires_grad_(True)
    assert torch.equal(backward(model, recompute=recompute), backward(whole))
    full = {name: p.grad for name, p in whole.named_parameters()}
    for name, module in weights(model):
        grad = full[f"{name}.weight"]
        want = 0.5 * module.b.mT @ grad, 0.5 * grad @ module.a.mT
        torch.testing.assert_close(module.a.grad, want[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(module.b.grad, want[1], rtol=1e-9, atol=1e-12)
    assert len(weights(model)) == 4 * 7 + 5 * 3
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.{part}" for name, _ in weights(model) for part in "ab"}
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_merging_changes_no_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model = adapted(dtype)
    before, ids = dict(model.state_dict()), torch.arange(1, 25)[None]
    with torch.no_grad():
        logits = model(ids).logits
    model.save_pretrained(tmp_path / "with")
    merge_lora(model)
    assert not weights(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in after)
    plain = mn.MiMoForCausalLM.from_pretrained(tmp_path / "with", dtype=dtype).unpack()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)
        assert torch.equal(plain(ids).logits, logits)


def test_without_training_it_is_the_same_model() -> None:
    model, plain = random_model(tiny()), random_model(tiny())
    attach_lora(model, LORA)
    assert all(torch.equal(t, plain.state_dict()[n]) for n, t in model.state_dict().items())


def test_a_run_trains_adapters_alone_and_resumes(tmp_path: Path) -> None:
    base = tmp_path / "base"
    random_model(config(tmp_path).model, dtype=torch.float32).save_pretrained(base)
    start = {"model": None, "init": str(base), "lora": LORA}
    whole, cut = (config(tmp_path, name, **start) for name in ("whole", "cut"))
    assert PretrainConfig.from_dict(whole.to_dict()) == whole
    run(whole)
    run(cut)
    checkpoints = Checkpoints(Path(cut.output) / "checkpoints")
    for later in checkpoints.all()[1:]:
        (later / "meta.json").unlink()  # as if the run had ended after its first checkpoint
    run(cut)
    assert curve(whole.output) == curve(cut.output)
    a, b, first = final(whole.output), final(cut.output), build_model(whole).state_dict()
    assert a.keys() == b.keys() == first.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    moved = {name for name in a if not torch.equal(a[name], first[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in moved
    assert not any("norm" in n or "embed" in n or "lm_head" in n for n in moved)


def test_refusals(tmp_path: Path) -> None:
    packed = random_model(tiny(), dtype=torch.float32).pack()
    with pytest.raises(mn.UnsupportedError, match="packed"):
        attach_lora(packed, LORA)
    model = adapted()
    with pytest.raises(mn.UnsupportedError, match="adapters already"):
        attach_lora(model, LORA)
    with pytest.raises(mn.UnsupportedError, match="has an adapter"):
        model.load_state_dict(model.state_dict())
    with pytest.raises(mn.UnsupportedError, match="none of its weights"):
        attach_lora(torch.nn.Linear(2, 2), LORA)
    with pytest.raises(mn.ShapeError, match="PretrainConfig: lora"):
        config(tmp_path, lora=LORA, mtp_only=True)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"alpha": 0.0}, {"targets": ()}, {"targets": ("head",)}], ids=str
)
def test_bad_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(mn.ShapeError, match="LoRAConfig: rank, alpha, targets"):
        LoRAConfig(**wrong)
