"""Token embedding, with its own table or tied to the head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .weight import Weight

__all__ = ["Embedding"]


class Embedding(nn.Module):
    """ids [N] -> rows of weight [V, D]."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self._head: tuple[Weight, ...] = ()

    def tie(self, head: Weight) -> None:
        """Look rows up in the head's weight from now on; checkpoints then hold one of the two."""
        self.weight = None
        self._head = (head,)  # in a tuple, so that it is not registered a second time

    def forward(self, ids: Tensor) -> Tensor:
        if not self._head:
            return F.embedding(ids, self.weight)
        weight = self._head[0].weight
        if isinstance(weight, Tensor):
            return F.embedding(ids, weight)
        return weight.gather_rows(ids)
