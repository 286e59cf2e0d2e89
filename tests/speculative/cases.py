"""Random draft trees and sampling controls, shared by tests and benchmarks."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BENCHMARKS", "TreeCase", "random_tree"]


def random_tree(generator: torch.Generator, nodes: int, vocab: int) -> tuple[Tensor, Tensor]:
    """tokens, parents [N]: any shape from a chain to a star, siblings distinct."""
    tokens, parents, taken = [0], [-1], set()
    depth_first = bool(torch.randint(2, (), generator=generator))
    while len(tokens) < nodes:
        low = max(0, len(tokens) - 3) if depth_first else 0
        parent = int(torch.randint(low, len(tokens), (), generator=generator))
        token = int(torch.randint(vocab, (), generator=generator))
        if (parent, token) not in taken:
            taken.add((parent, token))
            tokens.append(token)
            parents.append(parent)
    return torch.tensor(tokens), torch.tensor(parents)


@dataclass(frozen=True)
class TreeCase:
    nodes: int
    vocab: int
    temperature: float = 1.0
    dtype: torch.dtype = torch.float32

    @property
    def flops(self) -> float:
        return 2.0 * self.vocab

    @property
    def bytes(self) -> float:
        return float(self.vocab * self.dtype.itemsize)

    def make(self, seed: int = 0) -> dict[str, object]:
        generator = torch.Generator().manual_seed(seed)
        tokens, parents = random_tree(generator, self.nodes, self.vocab)
        logits = torch.randn(self.nodes, self.vocab, generator=generator).to(self.dtype)
        return {
            "logits": logits,
            "tokens": tokens,
            "parents": parents,
            "seed": seed,
            "position": 7,
            "temperature": self.temperature,
        }

    def __str__(self) -> str:
        return f"N{self.nodes}-V{self.vocab}-T{self.temperature:g}"


BENCHMARKS = (
    TreeCase(4, 152_576, 0.0),
    TreeCase(4, 152_576),
    TreeCase(16, 49_152, 0.0),
    TreeCase(64, 2048),
)
