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
        self._head: tuple[Weight, nn.Module] | None = None

    def tie(self, head: Weight, norm: nn.Module) -> None:
        """Look rows up in the head's weight from now on; checkpoints then hold one of the two.

        Rows of a head in codes come in the dtype of ``norm``'s weight, that of the activations.
        """
        self.weight = None
        self._head = (head, norm)  # in a tuple, so that they are not registered a second time

    def forward(self, ids: Tensor) -> Tensor:
        if self._head is None:
            return F.embedding(ids, self.weight)
        head, norm = self._head
        if isinstance(head.weight, Tensor):
            return F.embedding(ids, head.weight)
        rows = head.weight.gather_rows(ids)
        return rows.to(norm.weight.dtype) if head.weight.coded else rows
