"""Draft trees and their lossless verification. Suffixes: N nodes, V vocabulary, H history.

Node 0 is the root, the last committed token; every other node is a draft below its parent.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ._common import require, require_shape
from .sampling import sample

__all__ = ["DraftTree", "Verified", "build_draft_tree", "verify_tree"]

_MOST_NODES = 64


class DraftTree(NamedTuple):
    depths: Tensor  # [N] int64, the root's is 0
    ancestors: Tensor  # [N] int64: bit j says that node j is an ancestor of the node, or itself
    positions: Tensor  # [N] int64: that of the root plus the depth


class Verified(NamedTuple):
    path: Tensor  # [A] int64: the accepted nodes, from a child of the root downwards
    tokens: Tensor  # [A + 1] int64: the drawn tokens; all but the last are those of the path
    logprobs: Tensor  # [A + 1] float32, as `sample` defines them


def build_draft_tree(tokens: Tensor, parents: Tensor, *, root_position: int = 0) -> DraftTree:
    """Depths, ancestor masks and positions of a tree given by its parents.

    tokens, parents [N] int64, 1 <= N <= 64; parents[0] = -1, and every other node comes after its
    parent. Raises ShapeError for other shapes, parents out of range or order (so cycles), and
    siblings of equal token, which would make the drawn child ambiguous.
    """
    op, n = "build_draft_tree", tokens.shape[0] if tokens.ndim else 0
    require_shape(op, "tokens", tokens, "N")
    require_shape(op, "parents", parents, n)
    require(1 <= n <= _MOST_NODES, op, "tokens", f"1 to {_MOST_NODES} nodes", n)
    above, drafts = parents.tolist(), tokens.tolist()
    require(above[0] == -1, op, "parents", "-1 for the root, node 0", above[0])
    depths, masks, children = [0], [1], set()
    for node in range(1, n):
        parent = above[node]
        ordered = 0 <= parent < node
        require(ordered, op, "parents", f"a parent in [0, {node}) for node {node}", parent)
        twin = (parent, drafts[node]) in children
        require(not twin, op, "tokens", "distinct tokens among siblings", drafts[node])
        children.add((parent, drafts[node]))
        depths.append(depths[parent] + 1)
        masks.append(masks[parent] | 1 << node)
    signed = [mask - 2**64 if mask >= 2**63 else mask for mask in masks]
    depths_N = torch.tensor(depths)
    return DraftTree(depths_N, torch.tensor(signed), depths_N + root_position)


def verify_tree(
    logits: Tensor,
    tokens: Tensor,
    parents: Tensor,
    *,
    seed: int,
    position: int,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    history: Tensor | None = None,
    prompt_len: int = 0,
) -> Verified:
    """Walk down the tree by drawing as plain sampling would: losslessly, at every temperature.

    logits [N, V]: the target's at every node; tokens, parents as in build_draft_tree. At the
    current node the next token is drawn by `sample` from its logits, at ``position`` (that of the
    token after the root) plus the node's depth; a child of that token is descended to, else the
    walk ends. history [H] ends with the root; penalties see it and the accepted path.
    """
    depths_N = build_draft_tree(tokens, parents).depths
    controls = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
    }
    controls_1 = {name: torch.tensor([c]) for name, c in controls.items() if c is not None}
    require_shape("verify_tree", "logits", logits, tokens.shape[0], "V")
    child = {
        (parent, token): node
        for node, (parent, token) in enumerate(zip(parents.tolist(), tokens.tolist(), strict=True))
        if node > 0
    }
    node, path, drawn, logprobs = 0, [], [], []
    while True:
        past = {}
        if history is not None:
            so_far = torch.cat((history, torch.tensor(drawn, dtype=history.dtype)))
            past = {"history": so_far[None], "prompt_lens": torch.tensor([prompt_len])}
        ids, logprob = sample(
            logits[node : node + 1],
            seed=torch.tensor([seed]),
            position=position + depths_N[node : node + 1],
            **past,
            **controls_1,
        )
        drawn.append(ids.item())
        logprobs.append(logprob)
        found = child.get((node, drawn[-1]))
        if found is None:
            return Verified(
                torch.tensor(path, dtype=torch.int64), torch.tensor(drawn), torch.cat(logprobs)
            )
        node = found
        path.append(node)
