"""Draft trees on the simulated GPU: built, verified and refused as their definition says."""

import importlib.util

import pytest
import torch

import mimo_native as mn
from mimo_native import ops, reference
from mimo_native.testing import simulated_gpu

from .cases import random_tree

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
SCHEDULES = ["forward", "reverse", "random"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("nodes", [1, 2, 3, 31, 32, 33, 63, 64])
def test_build_equals_the_definition(nodes: int, schedule: str) -> None:
    for seed in range(4):
        tokens, parents = random_tree(torch.Generator().manual_seed(seed), nodes, 100)
        with simulated_gpu(capability=(8, 0), schedule=schedule):
            ours = ops.build_draft_tree(tokens, parents, root_position=17)
        definition = reference.build_draft_tree(tokens, parents, root_position=17)
        assert all(map(torch.equal, ours, definition))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
def test_verify_equals_the_definition(temperature: float | None, schedule: str) -> None:
    accepted = 0
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        nodes, vocab = 1 + seed * 7 % 64, 80
        tokens, parents = random_tree(generator, nodes, vocab)
        dtype = (torch.float32, torch.bfloat16)[seed % 2]
        logits = (2 * torch.randn(nodes, vocab, generator=generator)).to(dtype)
        logits[parents[1:], tokens[1:]] += 5  # drafts that are likely to be drawn
        args = {"seed": seed, "position": 9, "temperature": temperature}
        with simulated_gpu(capability=(8, 0), schedule=schedule, metrics=False):
            # Controls that are off ask for nothing.
            ours = ops.verify_tree(logits, tokens, parents, **args, top_k=0, top_p=1.0, min_p=0.0)
        definition = reference.verify_tree(logits, tokens, parents, **args)
        assert ours.path.tolist() == definition.path.tolist()
        assert ours.tokens.tolist() == definition.tokens.tolist()
        torch.testing.assert_close(ours.logprobs, definition.logprobs, rtol=1e-5, atol=1e-5)
        accepted += len(ours.path)
    assert accepted > 20


@pytest.mark.parametrize(
    ("tokens", "parents", "named"),
    [
        ([0, 1, 1], [-1, 0, 0], "tokens"),
        ([0, 1, 2], [-1, 2, 1], "parents"),
        ([0, 1], [-1, 1], "parents"),
        ([0, 1], [0, 0], "parents"),
        ([0, 1, 1], [-1, -1, 0], "parents"),
        ([], [], "tokens"),
        (list(range(65)), [-1] + [0] * 64, "tokens"),
    ],
    ids=["twins", "cycle", "own parent", "no root", "two roots", "empty", "65 nodes"],
)
def test_what_is_no_tree_is_refused(tokens: list[int], parents: list[int], named: str) -> None:
    nodes, above = torch.tensor(tokens, dtype=torch.int64), torch.tensor(parents, dtype=torch.int64)
    with simulated_gpu():
        with pytest.raises(mn.ShapeError) as caught:
            ops.build_draft_tree(nodes, above)
        assert caught.value.argument == named
        with pytest.raises(mn.ShapeError) as caught:
            ops.verify_tree(torch.zeros(len(tokens), 100), nodes, above, seed=0, position=0)
        assert caught.value.argument == named


def test_logits_count_where_the_walk_comes_by() -> None:
    """A node that is not visited may hold anything; one that is visited may not."""
    tokens, parents = torch.tensor([0, 1, 2]), torch.tensor([-1, 0, 0])
    logits = torch.zeros(3, 8)
    logits[0, 2] = 100
    args = {"seed": 0, "position": 0, "temperature": 0.0}
    for bad, refused in ((1, False), (2, True), (0, True)):
        spoilt = logits.clone()
        spoilt[bad, 7] = torch.nan
        with simulated_gpu():
            if not refused:
                assert ops.verify_tree(spoilt, tokens, parents, **args).path.tolist() == [2]
                continue
            with pytest.raises(mn.ShapeError) as caught:
                ops.verify_tree(spoilt, tokens, parents, **args)
            assert caught.value.argument == "logits"


def test_penalties_are_refused_with_the_reason() -> None:
    args = {"seed": 0, "position": 0, "history": torch.zeros(1, dtype=torch.int32)}
    tree = torch.zeros(1, 8), torch.tensor([0]), torch.tensor([-1])
    with simulated_gpu() as gpu, pytest.raises(mn.UnsupportedError, match="presence_penalty"):
        ops.verify_tree(*tree, **args, presence_penalty=1.0)
    assert not gpu.launches
