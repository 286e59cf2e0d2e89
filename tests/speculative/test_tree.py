"""The native tree and its verification against their definition in plain torch."""

import pytest
import torch

import mimo_native as mn
from mimo_native import ops, reference

from .cases import random_tree


@pytest.mark.parametrize("nodes", [1, 2, 3, 8, 31, 63, 64])
@pytest.mark.parametrize("seed", range(8))
def test_build_equals_the_definition(nodes: int, seed: int) -> None:
    tokens, parents = random_tree(torch.Generator().manual_seed(seed), nodes, 100)
    ours = ops.build_draft_tree(tokens, parents, root_position=17)
    definition = reference.build_draft_tree(tokens, parents, root_position=17)
    for mine, theirs in zip(ours, definition, strict=True):
        assert torch.equal(mine, theirs)


CONTROLS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 3},
    {"top_p": 0.6},
    {"min_p": 0.3},
    {"repetition_penalty": 1.5, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    {"temperature": 0.0, "repetition_penalty": 3.0},
]


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_verify_equals_the_definition(controls: dict, dtype: torch.dtype) -> None:
    accepted = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        nodes, vocab = 1 + seed % 20, 3 + seed % 5
        tokens, parents = random_tree(generator, nodes, vocab * 4)
        tokens = tokens % (vocab * 4)
        logits = (2 * torch.randn(nodes, vocab * 4, generator=generator)).to(dtype)
        # Drafts that are likely to be drawn, so that walks are long.
        logits[parents[1:], tokens[1:]] += 4
        history = torch.randint(vocab * 4, (9,), generator=generator, dtype=torch.int32)
        args = {"seed": seed, "position": 9, "history": history, "prompt_len": 4, **controls}
        ours = ops.verify_tree(logits, tokens, parents, **args)
        definition = reference.verify_tree(logits, tokens, parents, **args)
        assert ours.path.tolist() == definition.path.tolist()
        assert ours.tokens.tolist() == definition.tokens.tolist()
        torch.testing.assert_close(ours.logprobs, definition.logprobs, rtol=1e-5, atol=1e-5)
        accepted += len(ours.path)
    assert accepted > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_of_the_target_itself_is_accepted_whole(temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, 50, generator=generator)
    drawn, _ = ops.sample(
        logits,
        seed=torch.full((12,), 5),
        position=torch.arange(30, 42),
        temperature=torch.full((12,), temperature),
    )
    tokens, parents = (
        torch.cat((torch.zeros(1, dtype=torch.int64), drawn[:-1])),
        torch.arange(12) - 1,
    )
    result = ops.verify_tree(logits, tokens, parents, seed=5, position=30, temperature=temperature)
    assert result.path.tolist() == list(range(1, 12))
    assert result.tokens.tolist() == drawn.tolist()


@pytest.mark.parametrize(
    ("tokens", "parents", "named"),
    [
        ([0, 1, 1], [-1, 0, 0], "tokens"),
        ([0, 1, 2], [-1, 2, 1], "parents"),
        ([0, 1], [-1, 1], "parents"),
        ([0, 1], [0, 0], "parents"),
        ([], [], "tokens"),
        (list(range(65)), [-1] + [0] * 64, "tokens"),
    ],
    ids=["twins", "cycle", "own parent", "no root", "empty", "65 nodes"],
)
def test_what_is_no_tree_is_refused(tokens: list[int], parents: list[int], named: str) -> None:
    nodes, above = torch.tensor(tokens, dtype=torch.int64), torch.tensor(parents, dtype=torch.int64)
    for module in (ops, reference):
        with pytest.raises(mn.ShapeError, match=named):
            module.build_draft_tree(nodes, above)
        with pytest.raises(mn.ShapeError, match=named):
            module.verify_tree(torch.zeros(len(tokens), 100), nodes, above, seed=0, position=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_distribution_are_refused(bad: float) -> None:
    logits = torch.zeros(2, 8)
    logits[0, 3] = bad
    with pytest.raises(mn.ShapeError, match="logits"):
        ops.verify_tree(logits, torch.tensor([0, 1]), torch.tensor([-1, 0]), seed=0, position=0)


def test_penalties_without_a_history_are_refused() -> None:
    with pytest.raises(mn.ShapeError, match="history"):
        ops.verify_tree(
            torch.zeros(1, 8),
            torch.tensor([0]),
            torch.tensor([-1]),
            seed=0,
            position=0,
            presence_penalty=1.0,
        )
