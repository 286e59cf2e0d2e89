"""How far attention in float32 may be from its float64 value."""

import torch
from torch import Tensor

from ..tolerance import SMALLEST_NORMAL, UNIT_ROUNDOFF, rounding_bound

__all__ = ["attention_bound"]

# Logits are dot products as in gemm, then scaled, shifted by the maximum and exponentiated; sums
# over keys are rescaled once per block.
C = 4.0


def attention_bound(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    sink: Tensor | None,
    o: Tensor,
    lse: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Bounds of o [T, H, Dv] and lse [H, T] for q [T, H, D], k [S, G, D], v [S, G, Dv] in float64.

    An error d_ij of a logit moves a probability by p_ij (d_ij - sum_j p_ij d_ij). The weights
    exp(a_ij - m_i) may be stored in ``dtype`` for the second product, where their roundings are
    independent of one another.
    """
    u = UNIT_ROUNDOFF[torch.float32]
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    a = torch.einsum("thd,shd->hts", q, k) * scale
    sizes = torch.einsum("thd,shd->hts", q.abs(), k.abs()) * scale
    blind = lse == -torch.inf
    level = lse.masked_fill(blind, 0.0)
    p = (a - level[..., None]).exp().masked_fill(~visible | blind[..., None], 0.0)

    shift = a.abs() + level.abs()[..., None]
    d = C * u * (q.shape[-1] ** 0.5 * sizes + shift)
    if sink is not None:
        d = d + C * u * sink.clamp(min=-100).abs()[:, None, None]
    sums = C * u * (k.shape[0] + 16) ** 0.5
    drift = (p * d).sum(-1)
    p_error = p * (d + drift[..., None] + sums) + SMALLEST_NORMAL * visible  # tiny ones may be 0
    error = torch.einsum("hts,shd->thd", p_error, v.abs())
    stored = UNIT_ROUNDOFF[dtype] * p
    straight = torch.einsum("hts,shd->thd", stored, v.abs())
    spread = torch.einsum("hts,shd->thd", stored.square(), v.square()).sqrt()
    error = error + torch.minimum(straight, 4 * spread)
    lse_error = (drift + sums + 2 * u * level.abs()).masked_fill(blind, 0.0)
    return rounding_bound(o, error, dtype), lse_error
