"""Draft trees and their lossless verification. Suffixes: N nodes, V vocabulary, H history."""

import torch
from torch import Tensor

from .. import reference
from ..backends import choose, native, register
from ..errors import ShapeError
from ..reference.speculative import DraftTree, Verified
from .sampling import CONTROLS

__all__ = ["build_draft_tree", "verify_tree"]

register("build_draft_tree", "cpu", dtypes=(torch.int64,), options=("root_position",))
register(
    "verify_tree",
    "cpu",
    dtypes=(torch.float32, torch.bfloat16),
    options=(*CONTROLS, "prompt_len"),
)
register("build_draft_tree", "cuda", dtypes=(torch.int64,), options=("root_position",))
register(
    "verify_tree",
    "cuda",
    dtypes=(torch.float32, torch.bfloat16),
    options=("seed", "position", "temperature"),
)


def build_draft_tree(tokens: Tensor, parents: Tensor, *, root_position: int = 0) -> DraftTree:
    """Depths, ancestor masks and positions of a tree given by its parents.

    tokens, parents [N] int64, 1 <= N <= 64; node 0 is the root, the last known token, with parent
    -1; every other node comes after its parent -> depths, ancestors and positions, int64 [N] each:
    bit j of a node's ancestors says that node j is above it, or the node itself. Raises ShapeError
    for other shapes, parents out of range or order (so cycles), and siblings of equal token, which
    would make the drawn child ambiguous.
    """
    backend = choose("build_draft_tree", tokens)
    if backend == "cuda":
        return _build_on_gpu("build_draft_tree", tokens, parents, root_position)
    if backend == "reference":
        return reference.build_draft_tree(tokens, parents, root_position=root_position)
    depths, ancestors, positions = torch.empty(3, *tokens.shape, dtype=torch.int64).unbind()
    native("cpu").build_draft_tree(tokens, parents, root_position, depths, ancestors, positions)
    return DraftTree(depths, ancestors, positions)


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

    logits [N, V] float32 or bfloat16: the target's at every node; tokens, parents as in
    ``build_draft_tree``; seed, position and controls as in ``sample``, position being that of the
    token after the root. At the current node the next token is drawn from its logits; a child of
    that token is descended to, else the walk ends -> path [A] int64, the accepted nodes; tokens
    [A + 1] int64, the drawn ones, all but the last those of the path; logprobs [A + 1] float32.
    history [H] int32 ends with the root; penalties see it and the accepted path. Raises ShapeError
    as ``build_draft_tree`` and ``sample`` do.
    """
    # A control that changes nothing asks for nothing.
    top_k, top_p = top_k or None, None if top_p == 1.0 else top_p
    backend = choose(
        "verify_tree",
        logits,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p or None,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        history=history,
    )
    if backend == "cuda":
        return _verify_on_gpu(logits, tokens, parents, seed, position, temperature)
    if backend == "reference":
        return reference.verify_tree(
            logits,
            tokens,
            parents,
            seed=seed,
            position=position,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            history=history,
            prompt_len=prompt_len,
        )
    drawn, path, logprobs = native("cpu").verify_tree(
        logits,
        tokens,
        parents,
        seed,
        position,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        history,
        prompt_len,
    )
    return Verified(
        torch.tensor(path, dtype=torch.int64), torch.tensor(drawn), torch.tensor(logprobs)
    )


_FAULTS = (
    ("", ""),
    ("parents", "-1 for the root, node 0"),
    ("parents", "a parent in [0, {node}) for node {node}"),
    ("tokens", "distinct tokens among siblings"),
)


def _build_on_gpu(op: str, tokens: Tensor, parents: Tensor, root_position: int) -> DraftTree:
    *tree, fault = native("cuda").build_draft_tree(tokens, parents, root_position)
    found = int(fault)
    if found >= 0:
        node, kind = divmod(found, 4)
        argument, expected = _FAULTS[kind]
        got = int((tokens if argument == "tokens" else parents)[node])
        raise ShapeError(op, argument, expected=expected.format(node=node), got=str(got))
    return DraftTree(*tree)


def _verify_on_gpu(
    logits: Tensor,
    tokens: Tensor,
    parents: Tensor,
    seed: int,
    position: int,
    temperature: float | None,
) -> Verified:
    """Without penalties no node's draw depends on the path: all are drawn, then one warp walks."""
    op = "verify_tree"
    tree = _build_on_gpu(op, tokens, parents, position)
    if logits.ndim != 2 or len(logits) != len(tokens):
        expected = f"[{len(tokens)}, V]"
        raise ShapeError(op, "logits", expected=expected, got=str(list(logits.shape)))
    heat = None
    if temperature is not None:
        heat = torch.full_like(tree.positions, temperature, dtype=torch.float32)
    seeds = torch.full_like(tree.positions, seed)
    drawn, logprobs = native("cuda").sample(logits, seeds, tree.positions, heat)
    visited, count = native("cuda").walk_tree(tokens, parents, drawn)
    accepted = int(count)
    if accepted < 0:
        raise ShapeError(
            op,
            "logits",
            expected="rows that are finite or -inf, one finite in each",
            got="NaN, +inf or a row of -inf",
        )
    nodes = visited[:accepted]
    return Verified(nodes[1:], drawn[nodes], logprobs[nodes])
