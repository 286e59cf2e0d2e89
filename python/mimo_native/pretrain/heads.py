"""MTP heads in training: one in pre-training, copied and trained jointly afterwards."""

import copy
from dataclasses import dataclass, replace

from ..errors import ShapeError
from ..nn import MiMoForCausalLM

__all__ = ["Boundary", "expand_mtp"]


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """What the MTP loss does not train: the trunk by the hidden state, the embedding, the head.

    The heads' own parameters are trained in any case. The default is that of pre-training, where
    the MTP loss is meant to shape the trunk.
    """

    hidden: bool = False
    embedding: bool = False
    head: bool = False

    @classmethod
    def detached(cls) -> "Boundary":
        """Nothing of the main model feels the MTP loss."""
        return cls(hidden=True, embedding=True, head=True)


def expand_mtp(model: MiMoForCausalLM, heads: int) -> None:
    """Copy the last MTP block until the model has ``heads`` of them (section 2.3.2).

    Raises ShapeError for a model without a block, with packed weights, or with more blocks.
    """
    blocks = model.model.mtp.layers
    if not 1 <= len(blocks) <= heads:
        raise ShapeError(
            "expand_mtp",
            "heads",
            expected=f"at least {max(len(blocks), 1)}, and a model with one block to copy",
            got=f"{heads} heads of a model with {len(blocks)}",
        )
    while len(blocks) < heads:
        blocks.append(copy.deepcopy(blocks[-1]))
    model.config = replace(model.config, num_mtp_layers=heads)
