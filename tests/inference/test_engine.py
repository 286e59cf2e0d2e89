"""The engine: a request's output depends on its prompt, controls and seed, on nothing else."""

import random

import pytest
import torch

import mimo_native as mn
from mimo_native.inference import Engine
from mimo_native.inference.speculation import NativeRounds
from mimo_native.nn.native import NativeDecoder

CONFIG = mn.MiMoConfig.tiny()


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def model(request: pytest.FixtureRequest) -> mn.MiMoForCausalLM:
    return mn.MiMoForCausalLM(CONFIG).init_weights(std=0.1, seed=3).to(request.param).pack()


def make_prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [
        [rng.randrange(3, CONFIG.vocab_size) for _ in range(rng.randrange(1, 60))]
        for _ in range(count)
    ]


def make_sampling(i: int) -> mn.Sampling:
    """Controls that differ from request to request."""
    return [
        mn.Sampling(temperature=0, max_tokens=12, ignore_eos=True),
        mn.Sampling(temperature=1.3, seed=i, max_tokens=17, ignore_eos=True, logprobs=True),
        mn.Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=-i, max_tokens=9, ignore_eos=True),
        mn.Sampling(
            temperature=1.0,
            min_p=0.01,
            repetition_penalty=1.2,
            presence_penalty=0.3,
            frequency_penalty=0.2,
            seed=7 * i,
            max_tokens=14,
            ignore_eos=True,
        ),
    ][i % 4]


def plain(model: mn.MiMoForCausalLM, prompt: list[int], sampling: mn.Sampling) -> list[int]:
    """Decoding in its plainest form: the whole sequence anew for every token, without a cache."""
    tokens = list(prompt)
    for _ in range(sampling.max_tokens):
        logits = model(torch.tensor([tokens]), logits="last").logits
        f = {
            name: torch.tensor([float(getattr(sampling, name))])
            for name in (
                "temperature",
                "top_p",
                "min_p",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
            )
        }
        ids, _ = mn.ops.sample(
            logits,
            seed=torch.tensor([sampling.seed or 0]),
            position=torch.tensor([len(tokens)]),
            top_k=torch.tensor([sampling.top_k], dtype=torch.int32),
            history=torch.tensor([tokens], dtype=torch.int32),
            prompt_lens=torch.tensor([len(prompt)], dtype=torch.int32),
            **f,
        )
        tokens.append(int(ids[0]))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_batched_output_is_that_of_plain_decoding(model, max_batch: int) -> None:
    prompts = make_prompts(8)
    controls = [make_sampling(i) for i in range(len(prompts))]
    got = mn.generate(model, prompts, sampling=controls, max_batch=max_batch)
    for prompt, sampling, completion in zip(prompts, controls, got, strict=True):
        assert completion.token_ids == plain(model, prompt, sampling)
        assert completion.finish_reason == "length"


@pytest.mark.parametrize("chunk", [1, 5, 8, 64])
def test_prefill_chunks_change_nothing(model, chunk: int) -> None:
    prompts = make_prompts(5, seed=1)
    want = mn.generate(model, prompts, sampling=make_sampling(1))
    engine = Engine(model, max_batch=2, max_tokens=100, prefill_chunk=chunk)
    for prompt in prompts:
        engine.add(prompt, make_sampling(1))
    while engine.has_work:
        engine.step()
    for i, completion in enumerate(want):
        done = engine.finished[i].completion()
        assert done.token_ids == completion.token_ids
        assert done.logprobs == completion.logprobs


def test_threads_change_nothing(model) -> None:
    prompts = make_prompts(4, seed=2)
    before = torch.get_num_threads()
    outputs = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            done = mn.generate(model, prompts, sampling=make_sampling(1))
            outputs.append([(c.token_ids, c.logprobs) for c in done])
    finally:
        torch.set_num_threads(before)
    assert outputs[0] == outputs[1] == outputs[2]


def test_logprobs_and_routing_are_those_of_one_forward_pass(model) -> None:
    prompt = make_prompts(1, seed=5)[0]
    sampling = mn.Sampling(seed=4, max_tokens=20, ignore_eos=True, logprobs=True)
    [done] = mn.generate(model, [prompt], sampling=sampling, record_routing=True)
    fed = prompt + done.token_ids[:-1]
    out = model(torch.tensor([fed]))
    want = torch.log_softmax(out.logits[0, len(prompt) - 1 :].double(), dim=-1)
    want = want.gather(1, torch.tensor(done.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(done.logprobs).double(), want, rtol=0, atol=2e-6)
    assert torch.equal(done.routing, out.routing[:, 0])


def test_eos_ends_a_request_unless_ignored(model) -> None:
    prompt = make_prompts(1, seed=6)[0]
    greedy = mn.Sampling(temperature=0, max_tokens=8, ignore_eos=True)
    [free] = mn.generate(model, [prompt], sampling=greedy)
    eos = free.token_ids[2]
    engine = Engine(model, max_batch=1, max_tokens=80)
    engine._eos = frozenset([eos])
    first = engine.add(prompt, mn.Sampling(temperature=0, max_tokens=8))
    second = engine.add(prompt, greedy)
    while engine.has_work:
        engine.step()
    stopped = engine.finished[first].completion()
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(eos) + 1]
    assert engine.finished[second].completion().token_ids == free.token_ids


def test_cancelled_requests_leave_the_others_alone(model) -> None:
    rng = random.Random(9)
    prompts = make_prompts(24, seed=9)
    solo = [mn.generate(model, [p], sampling=make_sampling(i))[0] for i, p in enumerate(prompts)]
    engine = Engine(model, max_batch=4, max_tokens=100, prefill_chunk=16)
    for i, prompt in enumerate(prompts):
        engine.add(prompt, make_sampling(i))
    while engine.has_work:
        engine.step()
        if rng.random() < 0.3:
            engine.cancel(rng.randrange(len(prompts)))
    reasons = [engine.finished[i].finish_reason for i in range(len(prompts))]
    assert "cancelled" in reasons
    assert "length" in reasons
    for i, want in enumerate(solo):
        done = engine.finished[i].completion()
        if done.finish_reason == "cancelled":
            assert done.token_ids == want.token_ids[: len(done.token_ids)]
        else:
            assert done.token_ids == want.token_ids


def test_stream_yields_what_generate_returns(model) -> None:
    prompts = make_prompts(3, seed=11)
    want = mn.generate(model, prompts, sampling=make_sampling(1))
    got: list[list[int]] = [[], [], []]
    for piece in mn.stream(model, prompts, sampling=make_sampling(1)):
        got[piece.index] += piece.token_ids
    assert got == [c.token_ids for c in want]


def test_bad_requests_are_refused_before_they_are_queued(model) -> None:
    engine = Engine(model, max_batch=1, max_tokens=20)
    for prompt, sampling, message in (
        ([], None, "prompt"),
        ([CONFIG.vocab_size], None, "prompt"),
        ([-1], None, "prompt"),
        ([5] * 10, mn.Sampling(max_tokens=12), "max_tokens"),
        ([5], mn.Sampling(stop=("x",), max_tokens=2), "stop"),
    ):
        with pytest.raises(mn.ShapeError, match=message):
            engine.add(prompt, sampling)
    assert not engine.has_work
    for bad in (
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_k": -1},
        {"min_p": 2.0},
        {"max_tokens": 0},
        {"seed": 2**63},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
    ):
        with pytest.raises(mn.ShapeError, match=next(iter(bad))):
            mn.Sampling(**bad)


@pytest.mark.parametrize("one_call", [True, False])
def test_a_failed_step_loses_nothing(
    model, one_call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = make_prompts(1, seed=12)[0]
    want = mn.generate(model, [prompt], sampling=make_sampling(1))[0].token_ids
    engine = Engine(model, max_batch=1, max_tokens=100)
    if not one_call:
        engine.plain = None
    engine.add(prompt, make_sampling(1))
    engine.step()

    def fail(*args: object) -> torch.Tensor:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patch:
        if one_call:
            patch.setattr(NativeRounds, "run", fail)
        else:
            patch.setattr(NativeDecoder, "run", fail)
        with pytest.raises(RuntimeError, match="interrupted"):
            engine.step()
    while engine.has_work:
        engine.step()
    assert engine.finished[0].output == want
