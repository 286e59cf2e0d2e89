"""Draft trees by hand, and verification against plain sampling of the same target."""

import pytest
import torch

from mimo_native import ShapeError
from mimo_native.reference.sampling import sample
from mimo_native.reference.speculative import build_draft_tree, verify_tree


def test_depths_masks_and_positions() -> None:
    tree = build_draft_tree(
        torch.tensor([9, 1, 2, 1, 1]), torch.tensor([-1, 0, 0, 1, 2]), root_position=7
    )
    assert tree.depths.tolist() == [0, 1, 1, 2, 2]
    assert tree.ancestors.tolist() == [0b1, 0b11, 0b101, 0b1011, 0b10101]
    assert tree.positions.tolist() == [7, 8, 8, 9, 9]


def test_sixty_four_nodes_fill_the_mask() -> None:
    chain = build_draft_tree(torch.arange(64), torch.arange(64) - 1)
    assert chain.ancestors[63].item() == -1
    with pytest.raises(ShapeError, match="1 to 64 nodes"):
        build_draft_tree(torch.arange(65), torch.arange(65) - 1)


@pytest.mark.parametrize(
    ("tokens", "parents", "argument"),
    [
        ([0, 1, 1], [-1, 0, 0], "tokens"),
        ([0, 1, 2], [-1, 2, 1], "parents"),
        ([0, 1], [-1, 1], "parents"),
        ([0, 1], [-1, 5], "parents"),
        ([0, 1], [-1, -1], "parents"),
        ([0, 1], [0, 0], "parents"),
        ([0, 1], [-1], "parents"),
        ([], [], "tokens"),
    ],
)
def test_malformed_trees_are_refused(tokens: list, parents: list, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        build_draft_tree(
            torch.tensor(tokens, dtype=torch.int64), torch.tensor(parents, dtype=torch.int64)
        )
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "controls",
    [{"temperature": 0.0}, {}, {"temperature": 0.7, "top_p": 0.9}, {"repetition_penalty": 1.5,
      "frequency_penalty": 0.5}],
)  # fmt: skip
def test_verification_equals_plain_sampling(controls: dict) -> None:
    """A target whose logits depend on the whole path; random trees, many of them accepted deep."""
    vocab, history, accepted = 4, [2, 0], 0

    def target(path: list[int]) -> torch.Tensor:
        gen = torch.Generator().manual_seed(hash(tuple(path)) % 2**31)
        return torch.randn(vocab, generator=gen)

    for seed in range(60):
        gen = torch.Generator().manual_seed(seed)
        paths, parents, tokens = [history], [-1], [0]
        while len(paths) < 20:
            parent = int(torch.randint(len(paths), (), generator=gen))
            token = int(torch.randint(vocab, (), generator=gen))
            if [*paths[parent], token] not in paths:
                paths.append([*paths[parent], token])
                parents.append(parent)
                tokens.append(token)
        got = verify_tree(
            torch.stack([target(path) for path in paths]),
            torch.tensor(tokens),
            torch.tensor(parents),
            seed=seed,
            position=2,
            history=torch.tensor(history, dtype=torch.int32),
            prompt_len=1,
            **controls,
        )
        plain = list(history)
        for step in range(len(got.tokens)):
            ids, logprob = sample(
                target(plain)[None],
                seed=torch.tensor([seed]),
                position=torch.tensor([2 + step]),
                history=torch.tensor([plain], dtype=torch.int32),
                prompt_lens=torch.tensor([1]),
                **{name: torch.tensor([value]) for name, value in controls.items()},
            )
            assert ids.item() == got.tokens[step].item()
            assert logprob.item() == got.logprobs[step].item()
            plain.append(ids.item())
        assert [paths[node] for node in got.path] == [plain[: 3 + i] for i in range(len(got.path))]
        assert plain not in paths
        accepted += len(got.path)
    assert accepted > 30  # of 60 walks, about half a draft each
