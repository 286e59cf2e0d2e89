"""Rounds in one native call against the Python path: the same drafts, walks, caches and bits."""

import random

import pytest
import torch

from mimo_native.inference import Engine
from mimo_native.inference.speculation import Plan, Round, Speculator
from mimo_native.inference.speculation.draft import TreeShape

from .test_lossless import WINDOWS, random_requests, tiny_model

PLANS = {
    "chain": Plan(TreeShape()),
    "tree": Plan(TreeShape(width=4, beam=3, budget=12)),
    "bounded": Plan(TreeShape(width=3, beam=3, budget=9, least_step=-1.5, least_node=-2.5)),
    "wide": Plan(TreeShape(width=12, beam=6, budget=50)),
    "extended": Plan(TreeShape(), (0,) * 6 + (4,) * 3, extended=(0, 0, 2, 5, 5, 9, 9, 9, 9)),
    "beside": Plan(TreeShape(width=3, beam=2), (0, 0, *(7,) * 7), True, (0, 0, *(40,) * 7)),
}


class Fixed(Speculator):
    """Drafts of one shape and copied text in every round; remembers all that was drawn."""

    def __init__(self, *args, plan: Plan, skip: int, **options) -> None:
        super().__init__(*args, **options)
        self.plan, self.skip, self.rounds, self.log = plan, skip, 0, []

    def propose(self, requests):
        self.rounds += 1
        assert self.native is None or self.native.ready()
        # Rounds without drafts let the blocks fall behind.
        if self.rounds % 97 < self.skip:
            return Round()
        return super().propose(requests)

    def record(self, *args) -> None: ...


class Logged(Engine):
    def _walked(self, requests, round, began):
        self.speculator.log.append([(w.draft, w.path, w.tokens, w.logprobs) for w in round.walks])
        return super()._walked(requests, round, began)


def run(model, prompts, controls, *, native: bool, plan: Plan, skip: int, batch: int):
    engine = Logged(model, max_batch=batch, max_tokens=400, prefill_chunk=16, speculative="tree")
    engine.speculator = Fixed(model, engine.cache, "tree", native=native, plan=plan, skip=skip)
    assert (engine.speculator.native is not None) == native
    for layer in (*engine.cache.layers, *engine.cache.mtp_layers):
        for storage in (layer.keys, layer.values):
            storage.fill_(float("nan"))  # what nobody has written must not be read
    for prompt, sampling in zip(prompts, controls, strict=True):
        engine.add(prompt, sampling)
    while engine.has_work:
        engine.step()
    done = [engine.finished[i].completion() for i in range(len(prompts))]
    return engine, [(c.token_ids, c.logprobs) for c in done]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_native_rounds_draft_and_draw_as_python_does(name: str, dtype: torch.dtype) -> None:
    nodes = copied = 0
    for seed in range(8):
        rng = random.Random(seed)
        model = tiny_model(seed, window=WINDOWS[seed % len(WINDOWS)], dtype=dtype)
        prompts, controls = random_requests(rng, model.config.vocab_size, 3)
        prompts[0] *= 1 + 300 // len(prompts[0])  # longer than the blocks' rings
        options = {"plan": PLANS[name], "skip": rng.choice((0, 20)), "batch": 1 + seed % 3}
        ours, drawn = run(model, prompts, controls, native=True, **options)
        definition, expected = run(model, prompts, controls, native=False, **options)
        assert drawn == expected
        rounds = [r for r in ours.speculator.log if any(w[0] for w in r)]
        assert rounds == definition.speculator.log
        nodes += sum(len(walk[0]) for r in rounds for walk in r)
        copied += sum(walk[0].copied for r in rounds for walk in r)
    assert nodes > 200
    assert bool(copied) == bool(PLANS[name].extended)
