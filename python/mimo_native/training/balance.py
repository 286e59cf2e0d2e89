"""Load balancing of routed experts: the bias update that costs no loss, and the sequence loss."""

import torch
import torch.distributed as dist
from torch import Tensor

from ..nn import MiMoForCausalLM, Router, Routing

__all__ = ["expert_counts", "routers", "sequence_balance_loss", "update_bias"]


def routers(model: MiMoForCausalLM) -> list[Router]:
    """The routers in layer order. MTP blocks have none: their tokens load no expert."""
    return [m for m in model.model.layers.modules() if isinstance(m, Router)]


def expert_counts(routing: list[Routing]) -> Tensor:
    """Slots that chose each expert: int64 [moe layers, E]."""
    if not routing:
        return torch.zeros(0, 0, dtype=torch.int64)
    return torch.stack(
        [r.ids.flatten().long().bincount(minlength=r.logits.shape[-1]) for r in routing]
    )


def sequence_balance_loss(routing: list[Routing], rows: int) -> Tensor:
    """Sum over the batch's ``rows`` sequences and the MoE layers of sum_e f_e P_e.

    For a sequence of T tokens f_e = E / (K T) * (slots that chose e), which takes no gradient, and
    P_e = mean over tokens of sigmoid(logit_e) / sum_e' sigmoid(logit_e'). Perfect balance gives 1
    per layer and sequence.
    """
    total = routing[0].logits.new_zeros(()) if routing else torch.zeros(())
    for ids, logits in routing:
        experts, slots = logits.shape[1], ids.shape[1]
        scores_RTE = logits.sigmoid().unflatten(0, (rows, -1))
        shares_RE = (scores_RTE / (scores_RTE.sum(-1, keepdim=True) + 1e-20)).mean(1)
        sequence = torch.arange(rows).repeat_interleave(ids.numel() // rows)
        chosen = ids.flatten().long() + experts * sequence
        counts_RE = chosen.bincount(minlength=rows * experts).view(rows, experts)
        tokens = ids.shape[0] // rows
        total = total + (counts_RE.to(shares_RE) * (experts / (slots * tokens)) * shares_RE).sum()
    return total


@torch.no_grad()
def update_bias(model: MiMoForCausalLM, counts: Tensor, rate: float) -> Tensor:
    """bias_e += rate * sign(mean load - load_e) per layer, from the whole step's counts.

    counts int64 [moe layers, E]: this rank's; they are summed over ranks here. Returns the sums.
    """
    if dist.is_initialized():
        dist.all_reduce(counts)
    if rate:
        for router, load_E in zip(routers(model), counts, strict=True):
            # sign(mean - load) in whole numbers: exact ties move nothing.
            towards = (load_E.sum() - load_E * load_E.numel()).sign()
            router.e_score_correction_bias.add_(towards.to(torch.float32), alpha=rate)
    return counts
