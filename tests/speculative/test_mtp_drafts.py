"""Drafts of the cached, batched drafter against blocks run from scratch over the whole text."""

import pytest
import torch

import mimo_native as mn
from mimo_native.inference import Engine
from mimo_native.inference.speculation import Round, Speculator
from mimo_native.inference.speculation.draft import TreeShape
from mimo_native.inference.speculation.mtp import MTPDrafter

from .test_lossless import tiny_model


def from_scratch(model, tokens: list[int], path: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of what follows ``path``: block k = len(path) at the last position fed.

    Row j of block k takes h_j and token j + 1 + k, drafted tokens following the known ones.
    """
    n, k = len(tokens) - 1, len(path)
    hidden = model(torch.tensor([tokens[:n]]), logits="none").hidden
    text = [*tokens, *path]
    out = model.mtp(k, torch.tensor([text[1 + k : n + 1 + k]]), hidden)
    return out.logits[0, -1].log_softmax(-1)


def chain_from_scratch(model, tokens: list[int], depth: int) -> tuple[int, ...]:
    path: tuple[int, ...] = ()
    for _ in range(min(depth, len(tokens) - 1)):
        path = (*path, int(from_scratch(model, tokens, path).argmax()))
    return path


class Recorder(Engine):
    """Checks every draft when it is made."""

    shape = TreeShape()
    checked = 0

    def __init__(self, model, **options) -> None:
        super().__init__(model, speculative="tree", **options)
        # The Python path; test_native_rounds compares the native one with it.
        self.speculator = Speculator(model, self.cache, "tree", native=False)

    def step(self):
        drafter = self.speculator.drafter
        if "draft" not in drafter.__dict__:
            original = drafter.draft

            def draft(requests, depths, shape):
                drafts = original(requests, depths, self.shape)
                for request, depth, made in zip(requests, depths, drafts, strict=True):
                    self.check(request.tokens, min(depth, drafter.heads), made)
                return drafts

            drafter.draft = draft
        return super().step()

    def check(self, tokens, depth, made) -> None:
        paths = made.paths()
        if self.shape.width == 1:
            assert (paths[-1] if paths else ()) == chain_from_scratch(self.model, tokens, depth)
        else:
            # Every child of a node that went deeper is among its likeliest.
            for path in paths:
                best = from_scratch(self.model, tokens, path[:-1]).topk(self.shape.width).indices
                assert path[-1] in best.tolist()
            assert all(len(path) <= depth for path in paths)
        self.checked += len(paths)


@pytest.mark.parametrize("window", [2, 9, 65])
@pytest.mark.parametrize("shape", [TreeShape(), TreeShape(width=3, beam=2, budget=9)], ids=str)
def test_drafts_are_those_of_the_definition(window: int, shape: TreeShape) -> None:
    model = tiny_model(7 + window, window=window)
    engine = Recorder(model, max_batch=3, max_tokens=120)
    engine.shape = shape
    for length in (1, 2, 30, 70):
        sampling = mn.Sampling(temperature=1, seed=length, max_tokens=14)
        engine.add([1 + i % 11 for i in range(length)], sampling)
    while engine.has_work:
        engine.step()
    assert engine.checked > 100


def test_a_long_lag_is_caught_up() -> None:
    """Blocks that have not run for 150 tokens, more than a tree holds, draft as if they had."""
    model = tiny_model(5, window=9)
    plain = Engine(model, max_batch=1, max_tokens=300, speculative="tree")
    drafter = MTPDrafter(model, plain.cache)
    observed = []
    plain.speculator.observe = lambda row, hidden, at, _: observed.append((hidden, list(at)))
    plain.speculator.propose = lambda requests: Round()
    plain.add([1 + i % 13 for i in range(90)], mn.Sampling(temperature=1, seed=2, max_tokens=80))
    while plain.has_work and len(observed) < 60:
        plain.step()
    [request] = [r for r in plain.rows if r is not None]
    for hidden, at in observed:
        drafter.observe(0, hidden, at)
    [draft] = drafter.draft([request], [3], TreeShape())
    assert draft.paths()[-1] == chain_from_scratch(model, request.tokens, 3)


def test_drafts_after_going_back_to_a_common_beginning() -> None:
    """What the blocks saw of the tokens that are gone must not stay in their caches."""
    model = tiny_model(16, window=65)
    engine = Recorder(model, max_batch=1, max_tokens=120)
    prompt = [1 + i % 11 for i in range(40)]
    for number, beginning in enumerate((40, 36, 30)):
        sampling = mn.Sampling(temperature=1, seed=number, max_tokens=8)
        index = engine.add([*prompt[:beginning], 13, 14, 15 + number], sampling)
        while engine.has_work:
            engine.step()
        reused = engine.finished[index].stats.reused_tokens
        assert (reused > 20) == (number > 0)
    assert engine.checked > 20
