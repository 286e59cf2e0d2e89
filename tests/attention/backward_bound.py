"""How far the gradients of attention may be from their float64 values."""

import torch
from torch import Tensor

from ..tolerance import SMALLEST_NORMAL, UNIT_ROUNDOFF, rounding_bound
from .bound import C

__all__ = ["gradient_bound"]


def gradient_bound(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    sink: Tensor | None,
    dout: Tensor,
    dlse: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounds of dq, dk, dv like q [T, H, D], k [S, G, D], v [S, G, Dv], and of dsink [H] (one
    row's part of it, before its rounding); everything in float64.

    The weights P and dS are products of rounded factors, and may be stored in ``dtype`` before
    their sums; o was, before it entered delta = dO . o - dlse.
    """
    u, stored_u = UNIT_ROUNDOFF[torch.float32], UNIT_ROUNDOFF[dtype]
    stored_u = stored_u if dtype != torch.float32 else u
    group, (n_queries, _, dim), n_keys = q.shape[1] // k.shape[1], q.shape, k.shape[0]
    wide_k, wide_v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    a = torch.einsum("thd,shd->hts", q, wide_k) * scale
    sizes = torch.einsum("thd,shd->hts", q.abs(), wide_k.abs()) * scale
    a = a.masked_fill(~visible, -torch.inf)
    column = a.new_full((len(a), n_queries, 1), -torch.inf)
    if sink is not None:
        column = sink[:, None, None].expand(-1, n_queries, 1)
    lse = torch.cat((a, column), dim=-1).logsumexp(-1)
    blind = lse == -torch.inf
    level = lse.masked_fill(blind, 0.0)
    p = (a - level[..., None]).exp().masked_fill(~visible | blind[..., None], 0.0)

    shift = a.masked_fill(~visible, 0.0).abs() + level.abs()[..., None]
    d = C * u * (dim**0.5 * sizes + shift)
    drift = (p * d).sum(-1) + C * u * ((n_keys + 16) ** 0.5 + level.abs())
    if sink is not None:
        drift = drift + C * u * sink.clamp(min=-100).abs()[:, None]
    p_error = p * (d + drift[..., None]) + SMALLEST_NORMAL * visible  # tiny ones may be 0

    o = torch.einsum("hts,shd->htd", p, wide_v)
    dout_H = dout.transpose(0, 1)
    o_size, o_spread = (dout_H * o).abs().sum(-1), (dout_H * o).square().sum(-1).sqrt()
    o_error = torch.einsum("hts,shd->htd", p_error + stored_u * p, wide_v.abs())
    delta = (dout_H * o).sum(-1) - dlse
    delta_error = torch.minimum(stored_u * o_size, 4 * stored_u * o_spread)
    delta_error = delta_error + (dout_H.abs() * o_error).sum(-1).clamp(max=torch.inf)
    sums = C * u * v.shape[-1] ** 0.5
    delta_error = delta_error + sums * o_size + 2 * u * dlse.abs()
    dp = torch.einsum("thd,shd->hts", dout, wide_v)
    dp_error = sums * torch.einsum("thd,shd->hts", dout.abs(), wide_v.abs())
    ds = p * (dp - delta[..., None])
    ds_error = p_error * (dp - delta[..., None]).abs() + 3 * u * ds.abs()
    ds_error = ds_error + (p + p_error) * (dp_error + delta_error[..., None])

    def summed(equation: str, w: Tensor, w_error: Tensor, x: Tensor, terms: int) -> Tensor:
        error = torch.einsum(equation, w_error, x.abs())
        error = error + C * u * terms**0.5 * torch.einsum(equation, w.abs(), x.abs())
        rounding = stored_u * w.abs()
        straight = torch.einsum(equation, rounding, x.abs())
        spread = torch.einsum(equation, rounding.square(), x.square()).sqrt()
        return error + torch.minimum(straight, 4 * spread)

    def by_group(x: Tensor) -> Tensor:
        return x.unflatten(1, (k.shape[1], group)).sum(2)

    terms = n_queries * group + 64
    dq = scale * summed("hts,shd->thd", ds, ds_error, wide_k, n_keys + 64)
    dk = scale * by_group(summed("hts,thd->shd", ds, ds_error, q, terms))
    dv = by_group(summed("hts,thd->shd", p, p_error, dout, terms))
    rounded = tuple(
        rounding_bound(g, e + n_keys * SMALLEST_NORMAL, dtype)
        for g, e in zip(grads, (dq, dk, dv), strict=True)
    )
    if sink is None:
        return *rounded, q.new_zeros(q.shape[1])
    p_sink = (sink[:, None] - level).exp().masked_fill(blind, 0.0)
    dsink = p_sink * (delta_error + delta.abs() * (drift + C * u))
    return *rounded, dsink.sum(-1)
