"""Drafts as trees. A path is the tuple of drafted tokens from the root downwards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

__all__ = [
    "MOST_NODES",
    "Draft",
    "Round",
    "TreeShape",
    "Walk",
    "best_first",
    "chain",
    "extend",
    "merge",
]

MOST_NODES = 64  # with the root: a node's ancestors are one 64-bit word
Path = tuple[int, ...]


@dataclass(frozen=True)
class Draft:
    """Drafted tokens below a root that is not among them; parents[i] < i, -1 for the root.

    ``copied`` of them extend the deepest path of the others, before which ``extended`` matched.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    copied: int = 0
    extended: int = 0

    def paths(self) -> list[Path]:
        """The path to every node, in the nodes' order."""
        found: list[Path] = []
        for token, parent in zip(self.tokens, self.parents, strict=True):
            found.append(((*found[parent], token)) if parent >= 0 else (token,))
        return found

    @cached_property
    def depths(self) -> list[int]:
        """Nodes of the path to every node."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 + (depths[parent] if parent >= 0 else 0))
        return depths

    @cached_property
    def deepest(self) -> int:
        """Nodes of the longest path."""
        return max(self.depths, default=0)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class TreeShape:
    """``width`` children are scored per node, the ``beam`` likeliest paths of a depth go deeper if
    their log-probability is at least ``least_step``, and the ``budget`` likeliest nodes are
    drafted, none less likely than ``least_node``."""

    width: int = 1
    beam: int = 1
    budget: int = MOST_NODES - 1
    least_step: float = float("-inf")
    least_node: float = float("-inf")


@dataclass(frozen=True)
class Walk:
    """What verification made of one row's tree: accepted nodes, 1 being the first draft, and the
    tokens drawn, one more."""

    draft: Draft
    path: list[int]
    tokens: list[int]
    logprobs: list[float]


@dataclass
class Round:
    """The drafts of one round, in the order of its requests, none at all in a plain round; or the
    walks over them, where they have been verified and committed already. ``matched``: per request
    the tokens before the copied ones, 0 where none were; ``steps``: blocks that ran; ``quiet``:
    nothing was drafted, and the policy need not hear of it. Times in seconds."""

    drafts: Sequence[Draft] = ()
    walks: Sequence[Walk] = ()
    matched: Sequence[int] = ()
    draft_time: float = 0.0
    verify_time: float = 0.0
    steps: int = 0
    quiet: bool = False


def _from_paths(paths: Iterable[Path]) -> Draft:
    """From a set of paths that holds every prefix of its members before them."""
    node: dict[Path, int] = {}
    for path in paths:
        node.setdefault(path, len(node))
    return Draft(
        tuple(path[-1] for path in node),
        tuple(node[path[:-1]] if len(path) > 1 else -1 for path in node),
    )


def chain(tokens: Sequence[int]) -> Draft:
    """One token below the other."""
    return Draft(tuple(tokens), tuple(range(-1, len(tokens) - 1)))


def best_first(scores: Mapping[Path, float], shape: TreeShape) -> Draft:
    """The nodes that ``shape`` wants; ``scores`` are log-probabilities of whole paths.

    A path is never likelier than its prefix, so the choice is a tree; equals go to the shorter.
    """
    likely = (path for path in scores if scores[path] >= shape.least_node)
    ranked = sorted(likely, key=lambda path: (-scores[path], len(path), path))
    return _from_paths(ranked[: shape.budget])


def extend(draft: Draft, tokens: Sequence[int], matched: int) -> Draft:
    """Copied ``tokens``, before which ``matched`` did, below the first of the deepest nodes."""
    if not tokens:
        return draft
    tip = draft.depths.index(draft.deepest) if draft.tokens else -1
    parents = (tip, *range(len(draft), len(draft) + len(tokens) - 1))
    both = (*draft.tokens, *tokens), (*draft.parents, *parents)
    return Draft(*both, copied=len(tokens), extended=matched)


def merge(first: Draft, second: Draft, budget: int) -> Draft:
    """Both in one tree of at most ``budget`` nodes; ``first`` is kept whole as far as it fits."""
    both = _from_paths([*first.paths(), *second.paths()][:budget])
    return replace(both, copied=first.copied, extended=first.extended)
