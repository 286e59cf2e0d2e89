"""A prompt that begins like what a free row holds is fed from where it differs; same output."""

import pytest

import mimo_native as mn
from mimo_native.inference import Engine
from tests.speculative.test_lossless import tiny_model

SAMPLING = mn.Sampling(temperature=1, seed=4, max_tokens=12, logprobs=True)


def run(engine: Engine, prompt: list[int]):
    index = engine.add(prompt, SAMPLING)
    while engine.has_work:
        engine.step()
    return engine.finished.pop(index).completion()


@pytest.mark.parametrize("speculative", [None, "chain", "tree"])
@pytest.mark.parametrize("window", [2, 9, 65])
def test_turns_of_a_conversation(window: int, speculative) -> None:
    model = tiny_model(30 + window, window=window)
    engine = Engine(model, max_batch=1, max_tokens=200, speculative=speculative)
    prompt, fed = [1 + i % 7 for i in range(20)], 0
    for turn in range(4):
        done = run(engine, prompt)
        fresh = run(Engine(model, max_batch=1, max_tokens=200), prompt)
        assert done.token_ids == fresh.token_ids
        assert done.logprobs == fresh.logprobs
        assert done.stats.reused_tokens == fed
        fed = len(prompt) + len(done.token_ids) - 1  # the last one is never fed
        prompt = [*prompt, *done.token_ids, 3, turn, 5]


@pytest.mark.parametrize("speculative", [None, "tree"])
@pytest.mark.parametrize("window", [2, 9, 65])
@pytest.mark.parametrize("common", [0, 1, 5, 40, 70, 75])
def test_a_prompt_that_differs_somewhere(window: int, common: int, speculative) -> None:
    """The rings of small windows hold enough to go back some way, else the row starts anew."""
    model = tiny_model(40 + window, window=window)
    engine = Engine(model, max_batch=1, max_tokens=200, speculative=speculative)
    prompt = [1 + i % 7 for i in range(75)]
    run(engine, prompt)
    other = [*prompt[:common], *(9 + i % 5 for i in range(30))]
    done = run(engine, other)
    fresh = run(Engine(model, max_batch=1, max_tokens=200), other)
    assert done.token_ids == fresh.token_ids
    assert done.logprobs == fresh.logprobs
    assert done.stats.reused_tokens <= common


def test_rows_are_matched_to_prompts() -> None:
    model = tiny_model(50, window=9)
    engine = Engine(model, max_batch=2, max_tokens=100)
    first, second = [1] * 30, [2] * 30
    for prompt in (first, second):
        engine.add(prompt, SAMPLING)
    while engine.has_work:
        engine.step()
    assert run(engine, [*second, 3]).stats.reused_tokens == 30


def test_recorded_routing_is_whole() -> None:
    model = tiny_model(3, window=9)
    assert any(model.config.moe_layer_freq)
    engine = Engine(model, max_batch=1, max_tokens=100, record_routing=True)
    prompt = [1 + i % 7 for i in range(20)]
    run(engine, prompt)
    done = run(engine, [*prompt, 4])
    assert done.stats.reused_tokens == 0
    assert done.routing.shape[1] == 21 + len(done.token_ids) - 1
