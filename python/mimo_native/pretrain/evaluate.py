"""Held-out losses, and how many drafted tokens the MTP heads get accepted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..inference import Sampling, generate
from ..nn import MiMoForCausalLM
from ..training.batch import MicroBatch
from ..training.data import PackedRows, TokenFile
from ..training.data.order import order
from ..training.forward import packed, trunk
from .config import EvalConfig
from .objective import Objective, Totals, Weights

__all__ = ["DomainScore", "evaluate", "overall"]


@dataclass(frozen=True)
class DomainScore:
    """One corpus. Losses are in nats per token; acceptance counts drafts of a chain.

    acceptance      share of rounds in which heads 0 .. k are all accepted
    accept_length   tokens per round, the bonus token included; 0 without MTP heads or samples
    text_length     the same where the held-out text is taken for the sample, at every position
    """

    loss: float
    loss_per_byte: float
    mtp_loss: tuple[float, ...]
    acceptance: tuple[float, ...]
    accept_length: float
    text_length: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate(
    model: MiMoForCausalLM,
    heldout: Mapping[str, TokenFile],
    config: EvalConfig,
    *,
    seq_len: int,
    seed: int = 0,
) -> dict[str, DomainScore]:
    """Score ``model`` on every corpus, from the same rows and prompts each time.

    The acceptance length is that of lossless speculation at temperature 1: the continuations are
    plain samples, which speculation would reproduce, and the heads are asked along them.
    """
    return {
        name: _score(model, file, config, seq_len=seq_len, seed=seed)
        for name, file in sorted(heldout.items())
    }


def overall(scores: Mapping[str, DomainScore]) -> dict[str, float]:
    """Means over the corpora."""
    count = len(scores)
    return {
        "loss": sum(s.loss for s in scores.values()) / count,
        "accept_length": sum(s.accept_length for s in scores.values()) / count,
        "text_length": sum(s.text_length for s in scores.values()) / count,
    }


def _score(
    model: MiMoForCausalLM, file: TokenFile, config: EvalConfig, *, seq_len: int, seed: int
) -> DomainScore:
    rows = PackedRows(file, seq_len=seq_len, key=(seed, -2))
    heads = len(model.model.mtp.layers)
    objective = Objective(model)
    sums = torch.zeros(1 + heads, dtype=torch.float64)
    counts = torch.zeros(2 + heads, dtype=torch.int64)
    accepted: list[Tensor] = []
    available = min(config.rows, max(1, len(file) // seq_len))
    for n in range(available):
        ids, lengths = rows.row(n)
        batch = MicroBatch(torch.from_numpy(ids), torch.tensor(lengths), 1)
        one = Totals(1, (1,) * heads, 1)
        losses = objective(batch, one, Weights(0.0, 0.0))
        sums += torch.cat([losses.main[None], losses.mtp]).double()
        counts += Totals.count([batch], heads)
        if heads:
            run = accepted_runs(model, batch.ids, batch.lengths)
            accepted.append(run[run >= 0])
    totals = Totals.of(counts)
    main = float(sums[0]) / totals.main
    share, length = (), 0.0
    if heads and config.prompts:
        share, length = _simulate(model, file, config, seed)
    return DomainScore(
        loss=main,
        loss_per_byte=main / file.bytes_per_token,
        mtp_loss=tuple(float(s) / n for s, n in zip(sums[1:].tolist(), totals.mtp, strict=True)),
        acceptance=share,
        accept_length=length,
        text_length=1.0 + float(torch.cat(accepted).double().mean()) if heads else 0.0,
    )


def accepted_runs(model: MiMoForCausalLM, ids: Tensor, lengths: Tensor) -> Tensor:
    """How many heads in a row guess right from each position, int64 [N]; -1 near a document's end.

    Position i drafts tokens i + 2, i + 3, ...; heads 1 and up are fed the true tokens, which are
    what they would be fed where the earlier drafts were accepted.
    """
    heads = len(model.model.mtp.layers)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    hidden = trunk(model, ids, packed(cu_seqlens)).hidden
    ends = torch.repeat_interleave(lengths.cumsum(0), lengths)
    positions = torch.arange(ids.shape[0])
    run, alive = torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool)
    for k in range(heads):
        rows = (positions + k + 2 < ends).nonzero()[:, 0]
        if rows.numel() == 0:
            break
        cu_k = torch.nn.functional.pad((lengths - k - 2).clamp(min=0).cumsum(0), (1, 0))
        embedded = model.model.embed_tokens(ids[rows + 1 + k])
        u = model.model.mtp.layers[k](embedded, hidden[rows], packed(cu_k.to(torch.int32)))[0]
        guess = model.head(u).argmax(-1)
        right = torch.zeros_like(alive)
        right[rows] = guess == ids[rows + 2 + k]
        alive &= right
        run += alive
    run[positions + heads + 1 >= ends] = -1
    return run


def _simulate(
    model: MiMoForCausalLM, file: TokenFile, config: EvalConfig, seed: int
) -> tuple[tuple[float, ...], float]:
    """Acceptance per head and tokens per round along sampled continuations of held-out prompts."""
    heads = len(model.model.mtp.layers)
    prompts = _prompts(file, config, seed)
    sampling = [
        Sampling(temperature=1.0, max_tokens=config.new_tokens, seed=seed + i)
        for i in range(len(prompts))
    ]
    rounds = torch.zeros(heads + 1, dtype=torch.int64)
    for prompt, completion in zip(
        prompts, generate(model, prompts, sampling=sampling, max_batch=16), strict=True
    ):
        ids = torch.tensor([*prompt, *completion.token_ids])
        run = accepted_runs(model, ids, torch.tensor([len(ids)])).tolist()
        # A round begins when token n is known; its drafts come from position n - 1.
        n = len(prompt)
        while n - 1 < len(run) and run[n - 1] >= 0:
            rounds[run[n - 1]] += 1
            n += run[n - 1] + 1
    total = int(rounds.sum())
    if total == 0:
        return (0.0,) * heads, 0.0
    share = tuple(int(rounds[k + 1 :].sum()) / total for k in range(heads))
    return share, 1.0 + sum(share)


def _prompts(file: TokenFile, config: EvalConfig, seed: int) -> list[list[int]]:
    chosen: list[list[int]] = []
    for document in order(file.documents, seed, -3).tolist():
        ids = file.document(document).tolist()
        if len(ids) > 1:
            chosen.append(ids[: min(config.prompt_tokens, len(ids) - 1)])
        if len(chosen) == config.prompts:
            break
    return chosen
