"""Muon: the momentum of a matrix, brought near to the nearest orthogonal one, is its update.

For the matrices inside the layers only; embedding, head, router, norms and sinks stay with AdamW.
q, k, v, gate, up and every expert are matrices of their own, however they are stored. Updates are
scaled by 0.2 sqrt(max(rows, columns)), to the size of AdamW's: both take one learning rate.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from ..nn.weight import Weight

__all__ = ["hidden_matrices", "muon_step", "orthogonalize"]

_KINDS = ("qkv", "o", "gate_up", "down", "eh")
_STEPS = ((3.4445, -4.7750, 2.0315),) * 5  # X <- a X + (b A + c A A) X with A = X X^T


def hidden_matrices(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """By parameter name, the rows of the matrices that stand on each other in it."""
    return {
        f"{name}.weight": tuple(module.rows.values())
        for name, module in model.named_modules()
        if isinstance(module, Weight) and name.rpartition(".")[2] in _KINDS
    }


def orthogonalize(matrices: Tensor) -> Tensor:
    """Singular values of [.., M, N] brought near 1 by five Newton-Schulz steps, in their dtype.

    A matrix of zeros stays one.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    for a, b, c in _STEPS:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


@torch.no_grad()
def muon_step(
    masters: Mapping[str, Tensor],
    momenta: Mapping[str, Tensor],
    rows: Mapping[str, Sequence[int]],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    """Update every master with a momentum from its gradient; sharded ones with all their ranks.

    Each rank orthogonalises the whole matrix and keeps its own part.
    """
    for name, buffer in momenta.items():
        master = masters[name]
        buffer.mul_(momentum).add_(master.grad)
        update = _whole(master.grad + momentum * buffer)
        parts = [
            orthogonalize(part) * (0.2 * max(part.shape[-2:]) ** 0.5)
            for part in update.split(list(rows[name]), dim=-2)
        ]
        master.mul_(1 - lr * weight_decay)
        master.sub_(_like(torch.cat(parts, dim=-2), master), alpha=lr)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(whole: Tensor, master: Tensor) -> Tensor:
    """``whole``, which all ranks have, sharded as ``master`` is."""
    if not isinstance(master, DTensor):
        return whole
    mesh = master.device_mesh
    everywhere = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=master.placements)
