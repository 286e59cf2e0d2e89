"""A whole tiny model on the simulated GPU: prefill, greedy decoding and speculation, as on the CPU.

Every operation but the look-up of embeddings, additions and concatenations, which are torch's, runs
the package's CUDA kernels; an op without one would be refused.
"""

import importlib.util
import random

import pytest
import torch

import mimo_native as mn
from mimo_native import ops
from mimo_native.inference import Engine
from mimo_native.testing import simulated_gpu

from ..speculative.test_lossless import Adversary, tiny_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
PROMPT = [5, 9, 30, 2, 77, 8, 1, 4, 100, 200, 12, 13, 14, 15]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request) -> mn.MiMoForCausalLM:
    made = mn.MiMoForCausalLM(mn.MiMoConfig.tiny()).init_weights(std=0.15, seed=3)
    return made.to(request.param).requires_grad_(False)


def test_prefill_and_a_chunk_agree_with_the_cpu(model: mn.MiMoForCausalLM) -> None:
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    want = model(ids).logits
    with simulated_gpu(capability=(8, 0), metrics=False):
        whole = model(ids).logits
        cache = model.new_cache(2, 32)
        parts = [model(part, cache=cache).logits for part in ids.split(9, dim=1)]
    # In bfloat16 an expert may be another one where two are nearly as good.
    most, usual = (1e-4, 1e-5) if model.dtype == torch.float32 else (0.1, 5e-3)
    scale = want.abs().max()
    for got in (whole, torch.cat(parts, dim=1)):
        error = (got - want).abs() / scale
        assert error.max() <= most
        assert error.mean() <= usual


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_greedy_decoding_is_that_of_the_cpu(model: mn.MiMoForCausalLM, schedule: str) -> None:
    sampling = mn.Sampling(temperature=0, max_tokens=6, ignore_eos=True)
    [want] = mn.generate(model, [PROMPT], sampling=sampling)
    with simulated_gpu(capability=(8, 0), schedule=schedule, metrics=False) as gpu:
        [got] = mn.generate(model, [PROMPT], sampling=sampling)
    assert got.token_ids == want.token_ids
    names = " ".join(launch.kernel for launch in gpu.launches)
    for family in ("rms_norm", "rope", "attention", "commit", "gemm", "route", "combine", "sample"):
        assert family in names
    # Global layers store their keys as they turn them; one commit a pass is for all rings.
    layers = [model.config.layer(i) for i in range(model.config.num_hidden_layers)]
    stored = sum(layer.window_keys is None for layer in layers)
    commits = sum("commit_kernel" in launch.kernel for launch in gpu.launches)
    assert 0 < stored < len(layers)
    assert commits == 6
    assert sum("rope_cached" in launch.kernel for launch in gpu.launches) == stored * commits


def test_a_failed_pass_leaves_the_cache_as_it_was(model: mn.MiMoForCausalLM) -> None:
    first, second = torch.tensor([PROMPT[:9]]), torch.tensor([PROMPT[9:]])

    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    with simulated_gpu(capability=(8, 0), schedule="forward", metrics=False):
        cache, other = model.new_cache(1, 32), model.new_cache(1, 32)
        for each in (cache, other):
            model(first, cache=each)
        hook = model.model.norm.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="luck"):
            model(torch.tensor([[3, 1, 4, 1]]), cache=cache)
        hook.remove()
        before, after = other.unpacked(0), cache.unpacked(0)
        got, want = model(second, cache=cache).logits, model(second, cache=other).logits
    for ours, theirs in zip(after, before, strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert torch.equal(got, want)
    for ours, theirs in zip(cache.unpacked(0), other.unpacked(0), strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_batch_of_ragged_requests_is_that_of_the_cpu() -> None:
    model = tiny_model(2, window=9).unpack().requires_grad_(False)
    prompts = [[1, 2, 3], [4] * 20, [7, 5], [1, 2, 3, 9, 8]]
    sampling = [
        mn.Sampling(temperature=t, seed=i, max_tokens=5) for i, t in enumerate((0, 1, 0, 2))
    ]
    want = mn.generate(model, prompts, sampling=sampling, max_batch=3)
    with simulated_gpu(capability=(8, 0), metrics=False):
        got = mn.generate(model, prompts, sampling=sampling, max_batch=3)
    assert [c.token_ids for c in got] == [c.token_ids for c in want]


@pytest.mark.parametrize("seed", range(6))
def test_speculation_is_lossless(seed: int) -> None:
    """Plain and speculative output of one simulated GPU, and of the CPU, token for token."""
    rng = random.Random(seed)
    model = tiny_model(seed, window=rng.choice((2, 9, 65))).unpack().requires_grad_(False)
    prompt = [rng.randrange(24) for _ in range(rng.randrange(2, 30))]
    sampling = mn.Sampling(temperature=(0.0, 0.8)[seed % 2], seed=seed, max_tokens=12)
    [on_cpu] = mn.generate(model, [prompt], sampling=sampling)
    with simulated_gpu(capability=(8, 0), seed=seed, metrics=False):
        [plain] = mn.generate(model, [prompt], sampling=sampling)
        engine = Engine(model, max_batch=1, max_tokens=60, speculative=("chain", "tree")[seed % 2])
        assert engine.speculator.native is None
        if seed > 2:
            engine.speculator = Adversary(seed, {0: plain.token_ids}, 24)
        engine.add(prompt, sampling)
        while engine.has_work:
            engine.step()
    got = engine.finished[0].completion()
    assert plain.token_ids == on_cpu.token_ids
    assert got.token_ids == plain.token_ids


def test_what_the_gpu_does_not_serve_is_refused_with_reasons() -> None:
    model = tiny_model(1, window=9)
    assert model.head.packed
    with simulated_gpu(capability=(8, 0)) as gpu:
        with pytest.raises(mn.UnsupportedError, match="no packed weight"):
            model(torch.tensor([[1, 2]]))
        engine = Engine(model.unpack(), max_batch=1, max_tokens=30)
        engine.add([1, 2], mn.Sampling(temperature=1, top_k=3, max_tokens=2))
        with pytest.raises(mn.UnsupportedError, match="does not serve top_k"):
            engine.step()
        cache = model.new_cache(1, 30)
    assert gpu.launches
    with torch.no_grad(), pytest.raises(mn.UnsupportedError, match="made for a GPU"):
        model(torch.tensor([[1, 2]]), cache=cache)


def test_ops_say_what_would_run() -> None:
    q = torch.zeros(1, 2, 4, 16)
    with simulated_gpu():
        assert mn.backends.explain("attention", q, q, q).backend == "cuda"
        odd = torch.zeros(1, 2, 4, 12)
        said = mn.backends.explain("attention", odd, odd, odd)
    assert said.backend is None
    assert "multiples of 8" in str(said)
    assert ops.attention(odd, odd, odd).shape == odd.shape
