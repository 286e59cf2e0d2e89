"""Peers of the router: its formula in torch, compiled."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["compiled_route", "torch_route"]


def torch_route(logits: Tensor, bias: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    scores = logits.sigmoid()
    ids = (scores + bias).topk(top_k, dim=-1).indices
    weights = scores.gather(-1, ids)
    return ids, weights / (weights.sum(-1, keepdim=True) + 1e-20)


def compiled_route(logits: Tensor, bias: Tensor, top_k: int) -> Callable[[], object]:
    route = torch.compile(torch_route, dynamic=False)
    return lambda: route(logits, bias, top_k)
