"""Linear head and cross-entropy, without ever holding the logits of all rows."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import ops

__all__ = ["IGNORE", "token_losses"]

IGNORE = -100  # a target that is none
# Logits of this many values live at a time; more rows go chunk by chunk and are formed again in
# the backward pass.
_CHUNK_VALUES = 1 << 24


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(hidden W^T)[target] per row: hidden [N, D], weight [V, D], targets int64 [N].

    -> [N] in float32 (float64 for float64), 0 where the target is -100.
    """
    rows = max(1, _CHUNK_VALUES // weight.shape[0])
    if hidden.shape[0] <= rows:
        return _chunk(hidden, weight, targets)
    parts = [
        checkpoint(_chunk, h, weight, t, use_reentrant=False, preserve_rng_state=False)
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = ops.linear(hidden, weight, out_dtype=dtype)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
