"""Feed-forward layers: dense SwiGLU, and the router with its experts."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from .keep_float32 import KeepFloat32
from .weight import HubNames, Weight, wide

__all__ = ["MLP", "Experts", "MoE", "Router", "Routing"]


class Routing(NamedTuple):
    """What a router made of N tokens: what replay and load balancing need."""

    ids: Tensor  # [N, K] int32, the chosen experts
    logits: Tensor  # [N, E] float32


class MLP(HubNames):
    """x [N, D] -> down(silu(gate x) * up x), unclamped."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = Weight(
            {"gate_proj": intermediate_size, "up_proj": intermediate_size}, hidden_size
        )
        self.down = Weight({"down_proj": hidden_size}, intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return ops.swiglu_mlp(x, self.gate_up.weight, self.down.weight)


class Router(HubNames, KeepFloat32):
    """x [N, D] -> (ids [N, K] int32, weights [N, K] float32); float32 from the logits on.

    The bias steers the selection only and gets no gradient; balancing moves it (section 3.1 of the
    report).
    """

    def __init__(
        self,
        hidden_size: int,
        experts: int,
        top_k: int,
        *,
        normalize: bool = True,
        scaling: float = 1.0,
        n_group: int = 1,
        topk_group: int = 1,
    ) -> None:
        super().__init__()
        self.proj = Weight({"": experts}, hidden_size)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))
        self.top_k, self.normalize, self.scaling = top_k, normalize, scaling
        self.n_group, self.topk_group = n_group, topk_group

    def logits(self, x: Tensor) -> Tensor:
        """x [N, D] -> [N, E] float32 (float64 for float64)."""
        return self.proj(x, out_dtype=wide(x))

    def forward(self, x: Tensor, *, replay_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.choose(self.logits(x), replay_ids=replay_ids)

    def choose(self, logits: Tensor, *, replay_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """logits [N, E] -> (ids, weights)."""
        return ops.route(
            logits,
            bias=self.e_score_correction_bias,
            top_k=self.top_k,
            normalize=self.normalize,
            scaling=self.scaling,
            n_group=self.n_group,
            topk_group=self.topk_group,
            replay_ids=replay_ids,
        )


class Experts(HubNames):
    """x [N, D], ids and weights [N, K] -> sum over slots of weight * expert(x)."""

    def __init__(self, hidden_size: int, intermediate_size: int, experts: int) -> None:
        super().__init__()
        self.gate_up = Weight(
            {"gate_proj": intermediate_size, "up_proj": intermediate_size},
            hidden_size,
            experts=experts,
        )
        self.down = Weight({"down_proj": hidden_size}, intermediate_size, experts=experts)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return ops.expert_mlp(x, self.gate_up.weight, self.down.weight, ids, weights)


class MoE(nn.Module):
    """Router and experts; returns what the router did beside the output."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        experts: int,
        top_k: int,
        *,
        normalize: bool = True,
        scaling: float = 1.0,
        n_group: int = 1,
        topk_group: int = 1,
    ) -> None:
        super().__init__()
        self.gate = Router(
            hidden_size,
            experts,
            top_k,
            normalize=normalize,
            scaling=scaling,
            n_group=n_group,
            topk_group=topk_group,
        )
        self.experts = Experts(hidden_size, intermediate_size, experts)

    def forward(self, x: Tensor, *, replay_ids: Tensor | None = None) -> tuple[Tensor, Routing]:
        logits = self.gate.logits(x)
        ids, weights = self.gate.choose(logits, replay_ids=replay_ids)
        return self.experts(x, ids, weights), Routing(ids, logits)
