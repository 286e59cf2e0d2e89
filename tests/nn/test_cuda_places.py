"""What lies on the GPU and what on the host, in every way that a model on a GPU is used."""

import importlib.util

import pytest
import torch

import mimo_native as mn
from mimo_native import ops
from mimo_native.inference import Engine

from ..speculative.test_lossless import Adversary, tiny_model
from ..two_places import OnGpu, move, two_places

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
PROMPTS = [[5, 9, 3, 2, 7, 8, 1], [4, 10, 20]]


def unpacked(seed: int) -> mn.MiMoForCausalLM:
    return tiny_model(seed, window=9).unpack().requires_grad_(False)


def test_two_places_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.ones(3, 8)
    with two_places(monkeypatch):
        there = here.to("cuda")
        assert (there.is_cuda, here.is_cuda, there.T.device.type) == (True, False, "cuda")
        assert isinstance(torch.zeros(2, device=there.device), OnGpu)
        assert type((there + 1).cpu()) is torch.Tensor
        assert isinstance(there[torch.tensor([0])], OnGpu)
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        assert ops.linear(there, there).is_cuda
        with pytest.raises(AssertionError, match="tensor of the CPU"):
            ops.linear(there, here)


def test_ids_of_the_host_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unpacked(1)
    with two_places(monkeypatch):
        move(model)
        with pytest.raises(mn.ShapeError, match="on cuda"):
            model(torch.tensor([[1, 2]]))


@pytest.mark.parametrize("mask", [False, True])
def test_forward_and_cache(monkeypatch: pytest.MonkeyPatch, mask: bool) -> None:
    model, ids = unpacked(2), torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    real = torch.ones_like(ids)
    real[1, :2] = 0
    args = {"attention_mask": real} if mask else {}
    want = model(ids, **args).logits
    with two_places(monkeypatch) as gpu:
        move(model)
        args = {name: t.to("cuda") for name, t in args.items()}
        got = model(ids.to("cuda"), **args).logits
        cache = model.new_cache(2, 20)
        parts = [model(part, cache=cache).logits for part in ids.to("cuda").split(4, dim=1)]
        whole = torch.cat(parts, dim=1).cpu()
        assert gpu.launches
        got = got.cpu()
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    if not mask:
        torch.testing.assert_close(whole, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_labels_and_replayed_experts_may_be_anywhere(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    model = mn.MiMoForCausalLM(mn.MiMoConfig.tiny()).init_weights(std=0.15, seed=3)
    model.requires_grad_(False)
    ids = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    want = model(ids, labels=ids)
    with two_places(monkeypatch):
        move(model)
        labels, replay_ids = ids.to(place), want.routing.to(place)
        got = model(ids.to("cuda"), replay_ids=replay_ids)
        with pytest.raises(mn.UnsupportedError, match="cuda: has no kernel"):
            model(ids.to("cuda"), labels=labels)
        with mn.backends.use("reference"):
            loss = model(ids.to("cuda"), labels=labels).loss.cpu()
        logits, routing = got.logits.cpu(), got.routing.cpu()
    assert torch.equal(routing, want.routing)
    torch.testing.assert_close(logits, want.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(loss, want.loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("speculative", [None, "chain", "tree"])
def test_generation_is_that_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, speculative: str | None
) -> None:
    model = unpacked(3)
    sampling = [mn.Sampling(temperature=t, seed=3, max_tokens=6) for t in (0.0, 0.8)]
    want = mn.generate(model, PROMPTS, sampling=sampling)
    with two_places(monkeypatch):
        move(model)
        engine = Engine(model, max_batch=2, max_tokens=60, speculative=speculative)
        if speculative == "tree":  # drafts of every kind; its own heads draft in chains
            engine.speculator = Adversary(3, {0: want[0].token_ids, 1: want[1].token_ids}, 24)
        for prompt, controls in zip(PROMPTS, sampling, strict=True):
            engine.add(prompt, controls)
        while engine.has_work:
            engine.step()
    got = [engine.finished[i].completion().token_ids for i in range(2)]
    assert got == [c.token_ids for c in want]
