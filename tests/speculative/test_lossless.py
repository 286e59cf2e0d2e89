"""Speculative output is plain output, token for token: random models, prompts, drafts and controls.

``python -m tests.speculative.test_lossless --cases 10000`` runs the long form.
"""

import argparse
import random
from dataclasses import replace

import pytest
import torch

import mimo_native as mn
from mimo_native.inference import Engine
from mimo_native.inference.speculation import Draft, Round, Speculator
from mimo_native.inference.speculation.native import NativeRounds

WINDOWS = (1, 2, 5, 9, 33, 65)


def tiny_model(seed: int, *, window: int, heads: int = 3, dtype: torch.dtype = torch.float32):
    """Two to four layers, a vocabulary of 24 and weights large enough for uneven choices."""
    rng = random.Random(seed)
    layers = rng.randrange(2, 5)
    config = replace(
        mn.MiMoConfig.tiny(),
        vocab_size=24,
        hidden_size=32,
        hybrid_layer_pattern=tuple(rng.randrange(2) for _ in range(layers)),
        moe_layer_freq=(0, *(rng.randrange(2) for _ in range(layers - 1))),
        intermediate_size=32,
        moe_intermediate_size=32,
        window_keys=window,
        num_mtp_layers=heads,
        eos_token_id=None,
    )
    return mn.MiMoForCausalLM(config).init_weights(std=0.3, seed=seed).to(dtype).pack()


class Adversary:
    """Stands in for the drafter: drafts that are right, wrong, or wrong from a chosen depth on."""

    heads = 0

    def __init__(
        self,
        seed: int,
        answers: dict[int, list[int]],
        vocab: int,
        native: NativeRounds | None = None,
    ) -> None:
        self.rng, self.answers, self.vocab = random.Random(seed), answers, vocab
        self.native = native

    def observe(self, *args: object) -> None: ...

    def forget(self, row: int) -> None: ...

    def finished(self, request: object) -> None: ...

    def record(self, *args: object) -> None: ...

    def propose(self, requests):
        drafts = [self._tree(r) for r in requests]
        if self.native is None:
            return Round(drafts)
        assert self.native.ready()
        return self.native.run(requests, extra=drafts)

    def _tree(self, request) -> Draft:
        room = request.sampling.max_tokens - len(request.output) - 1
        truth = self.answers[request.index][len(request.output) :][:room]
        depth = self.rng.randrange(0, min(room, 12) + 1) if room > 0 else 0
        wrong = self.rng.choice((0, depth, self.rng.randrange(depth + 1)))
        tokens, parents, at = [], [], -1
        for level in range(depth):
            right = truth[level]
            good = level < wrong or wrong == depth
            siblings = self.rng.sample(range(self.vocab), self.rng.randrange(1, 4))
            siblings = [t for t in siblings if t != right] + ([right] if good else [])
            self.rng.shuffle(siblings)
            above, at = at, -1
            for token in siblings[: 63 - len(tokens)]:
                if token == right or at < 0:
                    at = len(tokens)
                tokens.append(token)
                parents.append(above)
            if at < 0 or len(tokens) >= 60:
                break
            if not good:
                truth[level + 1 :] = [self.rng.randrange(self.vocab) for _ in truth[level + 1 :]]
        return Draft(tuple(tokens), tuple(parents))


def random_requests(rng: random.Random, vocab: int, count: int):
    prompts, controls = [], []
    for _ in range(count):
        prompts.append([rng.randrange(vocab) for _ in range(rng.randrange(1, 40))])
        controls.append(
            mn.Sampling(
                temperature=rng.choice((0.0, 0.0, 0.7, 1.0, 1.5)),
                top_k=rng.choice((0, 0, 5)),
                top_p=rng.choice((1.0, 0.8)),
                repetition_penalty=rng.choice((1.0, 1.0, 1.3)),
                frequency_penalty=rng.choice((0.0, 0.0, 0.5)),
                seed=rng.randrange(2**40),
                max_tokens=rng.randrange(1, 40),
                logprobs=True,
            )
        )
    return prompts, controls


def plain_run(model, prompts, controls, *, native: bool):
    engine = Engine(model, max_batch=len(prompts), max_tokens=80)
    assert engine.plain is not None
    if not native:
        engine.plain = None
    for prompt, sampling in zip(prompts, controls, strict=True):
        engine.add(prompt, sampling)
    while engine.has_work:
        engine.step()
    return [engine.finished[i].completion() for i in range(len(prompts))]


def check_case(seed: int) -> tuple[int, int]:
    """Plain against a real mode or an adversary; -> passes and tokens of the speculative run."""
    rng = random.Random(seed)
    dtype = rng.choice((torch.float32, torch.bfloat16))
    model = tiny_model(seed, window=rng.choice(WINDOWS), dtype=dtype)
    vocab = model.config.vocab_size
    prompts, controls = random_requests(rng, vocab, rng.randrange(1, 4))
    plain = plain_run(model, prompts, controls, native=rng.random() < 0.5)
    engine = Engine(
        model,
        max_batch=rng.randrange(1, 4),
        max_tokens=80,
        prefill_chunk=rng.choice((1, 7, 64)),
        speculative=rng.choice(("chain", "tree", "auto")),
    )
    if rng.random() < 0.5:
        answers = {i: done.token_ids for i, done in enumerate(plain)}
        rounds = NativeRounds(model, engine.cache) if rng.random() < 0.5 else None
        engine.speculator = Adversary(seed, answers, vocab, rounds)
    elif rng.random() < 0.3:
        mode = engine.speculator.mode
        engine.speculator = Speculator(model, engine.cache, mode, native=False)
    for prompt, sampling in zip(prompts, controls, strict=True):
        engine.add(prompt, sampling)
    while engine.has_work:
        engine.step()
    passes = tokens = 0
    for i, expected in enumerate(plain):
        got = engine.finished[i].completion()
        assert got.token_ids == expected.token_ids, f"case {seed}, request {i}"
        assert got.logprobs == expected.logprobs, f"case {seed}, request {i}"
        passes += got.stats.decode_passes
        tokens += len(got.token_ids) - 1
    return passes, tokens


@pytest.mark.parametrize("block", range(8))
def test_output_is_that_of_plain_decoding(block: int) -> None:
    passes = tokens = 0
    for seed in range(block * 12, block * 12 + 12):
        p, t = check_case(seed)
        passes, tokens = passes + p, tokens + t
    assert passes < tokens  # some drafts were accepted, or nothing was tested


class Oracle(Adversary):
    """The next 12 tokens, as they will be drawn."""

    def _tree(self, request) -> Draft:
        at = len(request.output)
        room = min(request.sampling.max_tokens - at - 1, 12)
        return Draft(tuple(self.answers[request.index][at : at + room]), tuple(range(-1, room - 1)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_oracle_is_accepted_whole(temperature: float) -> None:
    """One pass for the prompt and three for 39 tokens: what is accepted is never fed again."""
    model = tiny_model(4, window=9)
    sampling = mn.Sampling(temperature=temperature, seed=1, max_tokens=40)
    [plain] = mn.generate(model, [[1, 2, 3]], sampling=sampling)
    engine = Engine(model, max_batch=1, max_tokens=80, speculative="tree")
    engine.speculator = Oracle(0, {0: plain.token_ids}, 24)
    engine.add([1, 2, 3], sampling)
    steps = 0
    while engine.has_work:
        engine.step()
        steps += 1
    assert steps == 4
    done = engine.finished[0].completion()
    assert done.token_ids == plain.token_ids
    assert done.stats.accept_length == 13


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", ["chain", "tree"])
def test_every_phase_of_the_ring(window: int, mode: str) -> None:
    model = tiny_model(window, window=window)
    prompts = [[1 + i % 7 for i in range(length)] for length in range(60, 68)]
    sampling = mn.Sampling(temperature=0, max_tokens=70)
    plain = mn.generate(model, prompts, sampling=sampling)
    ours = mn.generate(model, prompts, sampling=sampling, speculative=mode)
    assert [c.token_ids for c in ours] == [c.token_ids for c in plain]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    passes = tokens = 0
    for number in range(options.first, options.first + options.cases):
        one = check_case(number)
        passes, tokens = passes + one[0], tokens + one[1]
        if number % 100 == 99:
            print(f"{number + 1} cases, {tokens / passes:.2f} tokens per pass", flush=True)
