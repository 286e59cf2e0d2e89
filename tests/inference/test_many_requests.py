"""Many requests that come, end and are cancelled at random: each gets what it would get alone.

``python -m tests.inference.test_many_requests --requests 1000`` runs the long form.
"""

import argparse
import gc
import random
import weakref

import pytest
import torch

import mimo_native as mn
from mimo_native.inference import Engine
from tests.speculative.test_lossless import tiny_model


class Letters:
    """A tokenizer for tests: every token is a letter."""

    eos_ids = (0,)
    chat = None

    def stream(self) -> "Letters":
        return self

    def push(self, token_id: int) -> str:
        return chr(ord("a") + token_id)

    def flush(self) -> str:
        return ""


def make_model(seed: int):
    model = tiny_model(seed, window=9)
    model.tokenizer = Letters()
    return model


def make_request(rng: random.Random, prompts: list[list[int]]) -> tuple[list[int], mn.Sampling]:
    """Some prompts go on from earlier ones, so that rows are reused."""
    if prompts and rng.random() < 0.3:
        prompt = [*rng.choice(prompts)[: rng.randrange(1, 40)], rng.randrange(1, 24)]
    else:
        prompt = [rng.randrange(1, 24) for _ in range(rng.randrange(1, 40))]
    stop = tuple(
        "".join(rng.choices("abcdefghijklmnopqrstuvwx", k=rng.randrange(1, 3))) for _ in "ab"
    )
    sampling = mn.Sampling(
        temperature=rng.choice((0.0, 0.0, 0.8, 1.3)),
        top_p=rng.choice((1.0, 0.9)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.2)),
        seed=rng.randrange(2**50),
        max_tokens=rng.randrange(1, 40),
        stop=stop if rng.random() < 0.4 else (),
        ignore_eos=rng.random() < 0.5,
        logprobs=True,
    )
    return prompt, sampling


def run(count: int, mode: str | None, seed: int) -> dict[str, int]:
    """-> how many requests ended in which way; raises AssertionError for a wrong one."""
    rng = random.Random(seed)
    model = make_model(seed)
    engine = Engine(model, max_batch=5, max_tokens=90, prefill_chunk=16, speculative=mode)
    asked: dict[int, tuple[list[int], mn.Sampling]] = {}
    streamed: dict[int, tuple[list[int], str]] = {}
    ends: dict[str, int] = {}
    while len(asked) < count or engine.has_work:
        while len(asked) < count and (not engine.has_work or rng.random() < 0.35):
            request = make_request(rng, [p for p, _ in asked.values()][-20:])
            index = engine.add(*request)
            asked[index], streamed[index] = request, ([], "")
        if rng.random() < 0.08:
            engine.cancel(rng.choice(list(asked)))
        for piece in engine.step():
            tokens, text = streamed[piece.index]
            streamed[piece.index] = [*tokens, *piece.token_ids], text + piece.text
        for index in list(engine.finished):
            done = engine.finished.pop(index).completion()
            check(model, asked[index], done, streamed[index])
            ends[done.finish_reason] = ends.get(done.finish_reason, 0) + 1
    assert sum(ends.values()) == count
    check_nothing_is_left(engine)
    return ends


def check(model, request, done, streamed) -> None:
    """Against the same request in an engine of its own, without drafts."""
    prompt, sampling = request
    [alone] = mn.generate(model, [prompt], sampling=sampling)
    length = len(done.token_ids)
    assert streamed == (done.token_ids, done.text)
    assert done.token_ids == alone.token_ids[:length]
    assert done.logprobs == alone.logprobs[:length]
    if done.finish_reason == "cancelled":
        assert alone.text.startswith(done.text)
    else:
        assert done.token_ids == alone.token_ids
        assert (done.text, done.finish_reason) == (alone.text, alone.finish_reason)


def check_nothing_is_left(engine: Engine) -> None:
    assert not engine.waiting
    assert not any(engine.rows)
    assert not engine.finished
    speculator = engine.speculator
    if speculator is not None:
        assert not speculator._ngrams
        for row in speculator.native._state:
            assert row.waiting <= speculator.native._capacity + engine.prefill_chunk
    storage = [weakref.ref(layer.keys) for layer in engine.cache.layers]
    engine.cache = engine.speculator = engine.plain = speculator = None
    gc.collect()
    assert all(ref() is None for ref in storage)


@pytest.mark.parametrize("mode", [None, "chain", "tree", "auto"])
def test_each_gets_what_it_would_get_alone(mode: str | None) -> None:
    ends = run(60, mode, seed=5)
    assert {"stop", "length", "cancelled"} <= set(ends)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    for number, mode in enumerate((None, "chain", "tree", "auto")):
        print(mode, run(options.requests, mode, seed=number), flush=True)
