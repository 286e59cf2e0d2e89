"""Gradients of a case, by the kernels or by autograd of the reference in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mimo_native import reference

from ..case import in_float64, normal
from ..tolerance import UNIT_ROUNDOFF
from .backward_bound import gradient_bound
from .cases import AttentionCase, VarlenCase

__all__ = ["Upstream", "exact", "gradients", "upstream"]

Case = AttentionCase | VarlenCase


@dataclass(frozen=True)
class Upstream:
    """The gradient of a loss in o and in lse."""

    dout: Tensor
    dlse: Tensor


def upstream(case: Case, args: dict, seed: int = 7) -> Upstream:
    q, v = args["q"], args["v"]
    dout = normal(*q.shape[:-1], v.shape[-1], seed=seed, dtype=case.dtype)
    lse = (*q.shape[:-3], q.shape[-2], q.shape[-3])
    return Upstream(dout, normal(*lse, seed=seed + 1, dtype=torch.float32))


def gradients(op: Callable[..., object], args: dict, up: Upstream) -> list[Tensor]:
    """dq, dk, dv and, if there is a sink, dsink."""
    names = [n for n in ("q", "k", "v", "sink") if args.get(n) is not None]
    leaves = {n: args[n].detach().requires_grad_() for n in names}
    outputs = op(**{**args, **leaves})
    if not outputs[0].requires_grad:  # the reference has no graph when there are no documents
        return [torch.zeros_like(leaf) for leaf in leaves.values()]
    grads = (up.dout.to(outputs[0].dtype), up.dlse.to(outputs[1].dtype))
    return list(torch.autograd.grad(outputs, list(leaves.values()), grads))


@lru_cache(maxsize=256)
def exact(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """The float64 gradients and the bounds of any other's distance from them."""
    args = case.make()
    up = upstream(case, args)
    wide, dlse = in_float64(args), up.dlse.double()
    grads = gradients(getattr(reference, case.op), wide, up)
    flat = [g.flatten(0, 1) if g.ndim == 4 else g for g in grads]
    dout = up.dout.double()
    dout = dout.flatten(0, 1) if dout.ndim == 4 else dout
    dlse = dlse.transpose(0, 1).flatten(1) if dlse.ndim == 3 else dlse
    bounds = [torch.zeros_like(g) for g in flat]
    scale = case.qk**-0.5 if case.scale is None else case.scale
    query = 0
    keys_of = _key_rows(case, wide)
    for index, (q, k, v, at_q, at_k) in enumerate(case.rows(wide)):
        rows = slice(query, query + len(q))
        keys = slice(keys_of[index], keys_of[index] + len(k))
        query += len(q)
        parts = (flat[0][rows], flat[1][keys], flat[2][keys])
        visible = case.visible(wide, index, at_q, at_k)
        upstreams = (dout[rows], dlse[:, rows])
        found = gradient_bound(q, k, v, visible, scale, wide["sink"], *upstreams, parts, case.dtype)
        for bound, place, part in zip(bounds, (rows, keys, keys), found[:3], strict=False):
            bound[place] = part
        if wide["sink"] is not None:
            bounds[3] += found[3]
    if wide["sink"] is not None:
        bounds[3] += 2 * UNIT_ROUNDOFF[torch.float32] * flat[3].abs() + 1e-30
    return grads, [b.reshape(g.shape) for b, g in zip(bounds, grads, strict=True)]


def _key_rows(case: Case, args: dict) -> list[int]:
    """Where each row's keys begin in the flattened k."""
    if isinstance(case, AttentionCase):
        return [b * args["k"].shape[1] for b in range(case.batch)]
    return args["cu_seqlens_k"].tolist()
