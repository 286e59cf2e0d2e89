"""The pre-training objective: next token, multi-token prediction, sequence-wise balance.

    loss = CE_main + lambda / K * sum_k CE_k + alpha / rows * sum over rows and layers of balance

Every CE is the mean over its own targets in the whole step, whatever the micro-batches and ranks.
Head k, 0-based, at position i of a document takes the main model's hidden state at i before its
final norm and the embedding of token i + 1 + k, at RoPE position i, and predicts token i + 2 + k.
Only positions with such a token in their own document enter block k at all: the last k + 2 of a
document are absent, so nothing can leak across and nothing is computed in vain.

Distilled heads learn from the main head: in place of that token the target is the main model's own
distribution for its place, cut to the likeliest tokens, renormalised and never trained itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import ops
from ..nn import MiMoForCausalLM
from ..training.balance import expert_counts, sequence_balance_loss
from ..training.batch import MicroBatch
from ..training.forward import packed, trunk
from .heads import Boundary

__all__ = ["Losses", "Objective", "Totals", "Weights"]

_NO_TARGET = -100
_LESSON_LOGITS = 1 << 24  # held at once while the likeliest tokens are picked


class Totals(NamedTuple):
    """What the sums of a step are divided by, over all micro-batches and ranks."""

    main: int  # targets of the main head
    mtp: tuple[int, ...]  # of each MTP head
    rows: int

    @classmethod
    def count(cls, batches: list[MicroBatch], heads: int) -> Tensor:
        """This rank's share, int64 [2 + heads]: main, rows, MTP heads."""
        sums = torch.zeros(2 + heads, dtype=torch.int64)
        for batch in batches:
            sums[0] += batch.targets(1)
            sums[1] += batch.rows * int(batch.real)
            for k in range(heads):
                sums[2 + k] += batch.targets(k + 2)
        return sums

    @classmethod
    def of(cls, counts: Tensor) -> "Totals":
        """From the summed counts; a head without any target gets 1, so that its loss is 0."""
        main, rows, *mtp = counts.clamp(min=1).tolist()
        return cls(main, tuple(mtp), rows)


class Weights(NamedTuple):
    """The stage's weights: lambda of the MTP loss, alpha of the balance loss."""

    mtp: float
    aux: float


class Losses(NamedTuple):
    """Of one micro-batch: ``loss`` carries the gradient, the others are this share's sums.

    main []: summed cross-entropy; mtp [K]; aux []: summed balance loss; counts [moe layers, E].
    """

    loss: Tensor
    main: Tensor
    mtp: Tensor
    aux: Tensor
    counts: Tensor


class _Lesson(NamedTuple):
    """The main head's likeliest tokens at every position, and their shares: [N, k] each."""

    ids: Tensor
    shares: Tensor


class Objective(nn.Module):
    """A model and its loss in one module, which is what gets sharded and called.

    mtp_only: the trunk runs without gradient and only the MTP heads' loss counts; where a batch
    brings the trunk's states along, the trunk does not run at all and ``main`` is 0.
    vocabulary int64 [V']: with mtp_only, the heads' losses are over these tokens alone, ascending;
    every target must be among them.
    distill: the heads learn the main head's so many likeliest tokens; 0: the text.
    """

    def __init__(
        self,
        model: MiMoForCausalLM,
        *,
        boundary: Boundary | None = None,
        mtp_only: bool = False,
        recompute: bool = False,
        vocabulary: Tensor | None = None,
        distill: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.boundary = boundary or Boundary()
        self.mtp_only, self.recompute = mtp_only, recompute
        self.vocabulary, self.distill, self._cut_head = vocabulary, distill, None
        if vocabulary is not None:
            self._cut_head = model.head.weight.detach()[vocabulary]

    def forward(self, batch: MicroBatch, totals: Totals, weights: Weights) -> Losses:
        model, view = self.model, packed(batch.cu_seqlens)
        if batch.hidden is not None:
            hidden, routing = batch.hidden.to(model.dtype), []
            main = aux = torch.zeros(())
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.mtp_only):
                hidden, routing = trunk(model, batch.ids, view, recompute=self.recompute)
                main = self._main(hidden, batch)
                aux = sequence_balance_loss(routing, batch.rows)
        heads = len(model.model.mtp.layers)
        lesson = self._lesson(hidden) if self.distill and heads else None
        mtp = [self.mtp_loss(k, hidden, batch, lesson) for k in range(heads)]
        loss = main.new_zeros(())
        if not self.mtp_only:
            loss = main / totals.main + (weights.aux / totals.rows) * aux
        if mtp:
            share = weights.mtp / len(mtp)
            loss = loss + share * sum(
                head / count for head, count in zip(mtp, totals.mtp, strict=True)
            )
        real = int(batch.real)
        counts = expert_counts(routing) * real
        each = torch.stack(mtp) if mtp else main.new_zeros(0)
        # A stand-in's loss is 0, yet reaches every parameter: its backward has all collectives.
        return Losses(
            loss * real, main.detach() * real, each.detach() * real, aux.detach() * real, counts
        )

    def _main(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        rows, targets = _pairs(batch, 1)
        normed = self.model.model.norm(hidden[rows])
        return ops.linear_cross_entropy(normed, self.model.head.weight, targets, reduction="sum")

    @torch.no_grad()
    def _lesson(self, hidden: Tensor) -> "_Lesson":
        """What the main head expects after every position."""
        weight = self.model.head.weight if self._cut_head is None else self._cut_head
        normed = self.model.model.norm(hidden)
        wide = torch.promote_types(normed.dtype, torch.float32)
        tops = [
            ops.linear(part, weight, out_dtype=wide).topk(self.distill, dim=-1)
            for part in normed.split(max(1, _LESSON_LOGITS // weight.shape[0]))
        ]
        return _Lesson(
            torch.cat([top.indices for top in tops]),
            torch.cat([top.values.softmax(-1) for top in tops]),
        )

    def mtp_loss(
        self, k: int, hidden: Tensor, batch: MicroBatch, lesson: "_Lesson | None" = None
    ) -> Tensor:
        """Summed cross-entropy of head k over the positions of ``batch`` that have a target."""
        model, cut = self.model, self.boundary
        rows, targets = _pairs(batch, k + 2)
        lengths = (batch.lengths - (k + 2)).clamp(min=0)
        if not bool(lengths.any()):
            lengths = torch.ones(1, dtype=lengths.dtype)  # the one row that _pairs made up
        cu_seqlens = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        next_rows = (rows + 1 + k).clamp(max=batch.ids.shape[0] - 1)
        embedded = model.model.embed_tokens(batch.ids[next_rows])
        h, weight = hidden[rows], model.head.weight
        embedded = embedded.detach() if cut.embedding else embedded
        h = h.detach() if cut.hidden else h
        weight = weight.detach() if cut.head else weight
        block = model.model.mtp.layers[k]
        if self.recompute and torch.is_grad_enabled():
            u = torch.utils.checkpoint.checkpoint(
                block,
                embedded,
                h,
                packed(cu_seqlens),
                use_reentrant=False,
                preserve_rng_state=False,
            )[0]
        else:
            u = block(embedded, h, packed(cu_seqlens))[0]
        if self.vocabulary is not None:
            weight = self._cut_head
        if lesson is not None:
            # Position i + 1 + k is where the main head is asked for token i + 2 + k.
            logprobs = ops.linear_logprob(u, weight, lesson.ids[next_rows])
            shares = lesson.shares[next_rows].to(logprobs.dtype)
            return -(shares * logprobs)[targets != _NO_TARGET].sum()
        if self.vocabulary is not None:
            found = torch.searchsorted(self.vocabulary, targets)
            targets = torch.where(targets == _NO_TARGET, targets, found)
        return ops.linear_cross_entropy(u, weight, targets, reduction="sum")


def _pairs(batch: MicroBatch, shift: int) -> tuple[Tensor, Tensor]:
    """Positions with a token ``shift`` later in their document, and that token: int64 [M] each.

    Where there is none at all, position 0 with no target: no mean of nothing, and no block skipped.
    """
    lengths = batch.lengths
    ends = torch.repeat_interleave(lengths.cumsum(0), lengths)
    positions = torch.arange(batch.ids.shape[0])
    rows = (positions + shift < ends).nonzero()[:, 0]
    if rows.numel() == 0:
        return torch.zeros(1, dtype=torch.int64), torch.tensor([_NO_TARGET])
    return rows, batch.ids[rows + shift]
