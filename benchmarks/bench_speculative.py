"""Verification of a draft tree, beside drawing at every node with torch and walking down."""

import pytest
import torch
from tests.speculative.cases import BENCHMARKS, TreeCase

import mimo_native as mn


def torch_verify(logits, tokens, parents, temperature):
    if temperature:
        drawn = (logits / temperature).softmax(-1).multinomial(1)[:, 0].tolist()
    else:
        drawn = logits.argmax(-1).tolist()
    child = {
        (p, t): n for n, (p, t) in enumerate(zip(parents.tolist(), tokens.tolist(), strict=True))
    }
    node, path = 0, []
    while (node := child.get((node, drawn[node]), -1)) > 0:
        path.append(node)
    return path


@pytest.mark.parametrize("case", BENCHMARKS, ids=str)
def test_verify_tree(compare, case: TreeCase) -> None:
    args = case.make()
    logits, tokens, parents = args["logits"], args["tokens"], args["parents"]
    compare(
        ours=lambda: mn.ops.verify_tree(**args),
        torch=lambda: torch_verify(logits, tokens, parents, case.temperature),
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )


@pytest.mark.parametrize("nodes", [4, 16, 64])
def test_build_draft_tree(compare, nodes: int) -> None:
    args = TreeCase(nodes, 2048).make()
    tokens, parents = args["tokens"], args["parents"]
    compare(
        ours=lambda: mn.ops.build_draft_tree(tokens, parents),
        torch=None,
        flops=nodes,
        bytes=5 * 8 * nodes,
        dtype=torch.float32,
    )
