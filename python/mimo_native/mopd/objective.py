"""A model and its post-training loss in one module, which is what gets sharded and called."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..nn import MiMoForCausalLM
from ..pretrain.heads import Boundary
from ..pretrain.objective import Objective
from ..training.balance import expert_counts
from ..training.forward import packed, trunk
from .batch import AnswerBatch
from .config import LossConfig
from .policy import Tokens, policy_loss, ratio_weights
from .teachers import Head

__all__ = ["PolicyBatch", "PolicyObjective", "PolicyTerms", "SftObjective"]


@dataclass(frozen=True)
class PolicyBatch:
    """Rollouts of one teacher: what the sampler, the teacher and the verifier said of each token.

    sampler, outcome and share float32 [N]; teacher float32 [N] or None; teacher_hidden [N, D'] and
    teacher_head in the forms that compare distributions; replay_ids int32 [moe layers, M, K].
    """

    answers: AnswerBatch
    sampler: Tensor
    outcome: Tensor
    share: Tensor
    teacher: Tensor | None = None
    teacher_hidden: Tensor | None = None
    teacher_head: Head | None = None
    replay_ids: Tensor | None = None

    def with_share(self, share: Tensor) -> "PolicyBatch":
        return replace(self, share=share)


class PolicyTerms(NamedTuple):
    """loss carries the gradient; mtp [K]: summed cross-entropy of the heads, mtp_tokens [K]: of how
    many; policy and entropy float32 [N] per token; counts [moe layers, E]."""

    loss: Tensor
    mtp: Tensor
    policy: Tensor
    entropy: Tensor
    counts: Tensor


class PolicyObjective(nn.Module):
    """Equations 5 to 9 on a batch of rollouts, and the MTP heads' loss apart from it."""

    def __init__(
        self,
        model: MiMoForCausalLM,
        config: LossConfig,
        *,
        temperature: float = 1.0,
        mtp_weight: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.config, self.temperature, self.recompute = config, temperature, recompute
        self.mtp_weight = mtp_weight
        # In a list, so that the model is this module's child once.
        self._heads = [Objective(model, boundary=Boundary.detached(), recompute=recompute)]

    def forward(self, batch: PolicyBatch, mtp_totals: tuple[int, ...] = ()) -> PolicyTerms:
        model, answers = self.model, batch.answers
        hidden, routing = trunk(
            model,
            answers.ids,
            packed(answers.cu_seqlens),
            recompute=self.recompute,
            replay_ids=batch.replay_ids,
        )
        normed, weight = model.model.norm(hidden[answers.rows]), model.head.weight
        policy, entropy = ops.linear_logprob(
            normed, weight, answers.targets, temperature=self.temperature, return_entropy=True
        )
        loss = self._policy(batch, policy, normed)
        mtp = self._mtp(batch, hidden, mtp_totals)
        if mtp.numel():
            totals = torch.tensor(mtp_totals, dtype=mtp.dtype)
            loss = loss + self.mtp_weight * (mtp / totals).mean()
        return PolicyTerms(
            loss, mtp.detach(), policy.detach(), entropy.detach(), expert_counts(routing)
        )

    def _policy(self, batch: PolicyBatch, policy: Tensor, normed: Tensor) -> Tensor:
        config = self.config
        sampled = config.form == "sampled" or batch.teacher is None
        teacher = batch.teacher if sampled else None
        loss = policy_loss(
            Tokens(policy, batch.sampler, teacher, batch.outcome, batch.share), config
        )
        if sampled:
            return loss
        assert batch.teacher_hidden is not None
        assert batch.teacher_head is not None
        divergence = ops.linear_reverse_kl(
            normed,
            self.model.head.weight,
            batch.teacher_hidden,
            batch.teacher_head,
            temperature=self.temperature,
            top_k=config.top_k if config.form == "top_k" else None,
            correction=config.correction,
        )
        return (
            loss + (batch.share * ratio_weights(policy, batch.sampler, config) * divergence).sum()
        )

    def _mtp(self, batch: PolicyBatch, hidden: Tensor, totals: tuple[int, ...]) -> Tensor:
        """Summed cross-entropy of each head; only the heads are trained by it."""
        if not totals:
            return hidden.new_zeros(0, dtype=torch.float32)
        whole = batch.answers.whole
        # No head looks at the hidden state of a sequence's last token: nothing follows it.
        spread = hidden.new_zeros(whole.ids.shape[0], hidden.shape[1])
        spread[batch.answers.kept] = hidden
        losses = [self._heads[0].mtp_loss(k, spread, whole) for k in range(len(totals))]
        return torch.stack(losses)


class SftObjective(nn.Module):
    """Cross-entropy of the answers, summed; prompts are read but not learned."""

    def __init__(self, model: MiMoForCausalLM, *, recompute: bool = False) -> None:
        super().__init__()
        self.model, self.recompute = model, recompute

    def forward(self, batch: AnswerBatch, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """-> (loss over ``tokens``, the sum without gradient, expert counts)."""
        hidden, routing = trunk(
            self.model, batch.ids, packed(batch.cu_seqlens), recompute=self.recompute
        )
        normed = self.model.model.norm(hidden[batch.rows])
        loss = ops.linear_cross_entropy(
            normed, self.model.head.weight, batch.targets, reduction="sum"
        )
        return loss / tokens, loss.detach(), expert_counts(routing)
