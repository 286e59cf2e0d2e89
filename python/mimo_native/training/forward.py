"""The main model's forward pass as training wants it: packed, recomputed, with router outputs."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..nn import MiMoForCausalLM, Routing
from ..nn.batch import Batch

__all__ = ["Trunk", "hidden_states", "packed", "set_rope_bases", "trunk"]


class Trunk(NamedTuple):
    """hidden [N, D] before the final norm, and the routing of every MoE layer in order."""

    hidden: Tensor
    routing: list[Routing]


def packed(cu_seqlens: Tensor) -> Batch:
    """The layers' view of packed documents: cu_seqlens int32 [S + 1], positions from 0 in each."""
    lengths = cu_seqlens.diff().long()
    tokens = int(cu_seqlens[-1])
    positions = torch.arange(tokens) - torch.repeat_interleave(cu_seqlens[:-1].long(), lengths)
    return Batch(None, (1, tokens), cu_seqlens, positions)


def trunk(
    model: MiMoForCausalLM,
    ids: Tensor,
    batch: Batch,
    *,
    recompute: bool = False,
    replay_ids: Tensor | None = None,
) -> Trunk:
    """Embedding and layers for ids int64 [N]; ``recompute`` keeps each layer's input only.

    The routing is each layer's own output: recomputation in the backward pass adds nothing to it.
    replay_ids int32 [moe layers, N, K]: these experts instead of the routers' choice, in the
    recomputation too; the weights come from the live router.
    """
    x = model.model.embed_tokens(ids)
    routing: list[Routing] = []
    for i, layer in enumerate(model.model.layers):
        replay = None
        if replay_ids is not None and model.config.layer(i).moe:
            replay = replay_ids[len(routing)]
        if recompute and torch.is_grad_enabled():
            x, _, _, routed = checkpoint(
                layer, x, batch, None, replay, use_reentrant=False, preserve_rng_state=False
            )
        else:
            x, _, _, routed = layer(x, batch, None, replay)
        if routed is not None:
            routing.append(routed)
    return Trunk(x, routing)


@torch.no_grad()
def hidden_states(model: MiMoForCausalLM, ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """States before the final norm, [1, N, D], of packed documents ids int64 [1, N]."""
    return trunk(model, ids[0], packed(cu_seqlens)).hidden[None]


def set_rope_bases(
    model: MiMoForCausalLM, *, rope_theta: float | None, swa_rope_theta: float | None
) -> None:
    """Give global and sliding attention new RoPE bases (None: as they are), for good."""
    config = replace(
        model.config,
        rope_theta=model.config.rope_theta if rope_theta is None else rope_theta,
        swa_rope_theta=model.config.swa_rope_theta if swa_rope_theta is None else swa_rope_theta,
    )
    model.config = config
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.config = config.layer(i)
    for block in model.model.mtp.layers:
        block.self_attn.config = config.mtp_layer()
