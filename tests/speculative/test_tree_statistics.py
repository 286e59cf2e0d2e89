"""What walks down a tree draw, as whole sequences, follows the target's distribution."""

import pytest
import torch

from mimo_native import ops
from tests.sampling import chi_square

ALPHA = 1e-6 / 4  # for the family
WALKS = 20_000
# Under the root, tokens 0 and 2; under the first of these, 1 and 3; under its 1, token 0.
TOKENS = torch.tensor([3, 0, 2, 1, 3, 0])
PARENTS = torch.tensor([-1, 0, 0, 1, 1, 3])
VOCAB = 4


def expected(logits: torch.Tensor, controls: dict) -> dict[tuple[int, ...], float]:
    """Every sequence that a walk can draw with its probability, from the definition."""
    found: dict[tuple[int, ...], float] = {}
    children = {
        (p, t): n for n, (p, t) in enumerate(zip(PARENTS.tolist(), TOKENS.tolist(), strict=True))
    }

    def down(node: int, drawn: tuple[int, ...], mass: float) -> None:
        z = logits[node].double().clone()
        for token in set(drawn):  # the prompt is not generated: it is not penalised
            z[token] -= controls.get("presence_penalty", 0.0)
            z[token] -= controls.get("frequency_penalty", 0.0) * drawn.count(token)
        p = (z / controls.get("temperature", 1.0)).softmax(-1).tolist()
        for token in range(VOCAB):
            child = children.get((node, token))
            if child is None:
                found[(*drawn, token)] = mass * p[token]
            else:
                down(child, (*drawn, token), mass * p[token])

    down(0, (), 1.0)
    return found


def drawn(logits: torch.Tensor, controls: dict, *, over: str = "seeds") -> list[tuple[int, ...]]:
    walks = []
    for i in range(WALKS):
        seed, position = (i, 3) if over == "seeds" else (11, 3 + 5 * i)
        walk = ops.verify_tree(
            logits,
            TOKENS,
            PARENTS,
            seed=seed,
            position=position,
            history=torch.tensor([0, 1, 3], dtype=torch.int32),
            prompt_len=3,
            **controls,
        )
        walks.append(tuple(walk.tokens.tolist()))
    return walks


def p_value(walks: list[tuple[int, ...]], probabilities: dict[tuple[int, ...], float]) -> float:
    sequences = sorted(probabilities)
    counts = torch.tensor([walks.count(s) for s in sequences])
    assert int(counts.sum()) == WALKS  # nothing else was drawn
    weights = torch.tensor([probabilities[s] for s in sequences], dtype=torch.float64)
    assert float(weights.min()) * WALKS >= 20
    return chi_square.p_value(counts, weights)


@pytest.mark.parametrize(
    ("controls", "over"),
    [
        ({}, "seeds"),
        ({}, "positions"),
        ({"temperature": 1.4}, "seeds"),
        ({"presence_penalty": 0.4, "frequency_penalty": 0.2}, "seeds"),
    ],
    ids=str,
)
def test_sequences_follow_the_target(controls: dict, over: str) -> None:
    logits = 0.3 * torch.randn(len(TOKENS), VOCAB, generator=torch.Generator().manual_seed(1))
    assert p_value(drawn(logits, controls, over=over), expected(logits, controls)) > ALPHA


def test_the_test_can_fail() -> None:
    logits = 0.3 * torch.randn(len(TOKENS), VOCAB, generator=torch.Generator().manual_seed(1))
    penalised = {"presence_penalty": 0.4, "frequency_penalty": 0.2}
    assert p_value(drawn(logits, {}), expected(logits, penalised)) < ALPHA
