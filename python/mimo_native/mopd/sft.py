"""Supervised fine-tuning: the first stage, and the specialists that need no reward."""

from typing import Any

import torch
from torch import nn

from ..errors import ShapeError
from ..nn import MiMoForCausalLM
from ..pretrain.run import RunResult
from .batch import pack_answers, split
from .config import SftConfig
from .evaluate import require_answers
from .loop import PostRun, in_ranks, most, summed
from .objective import SftObjective
from .rewards import resolve_reward

__all__ = ["sft"]


def sft(config: SftConfig, *, progress: bool = False) -> RunResult:
    """Fine-tune ``config.init`` on prompts with answers; continues where it stopped.

    Writes config.json, metrics.jsonl, checkpoints/ and final/ in ``config.output``. An answer ends
    with the model's end token. Raises as ``run`` does.
    """
    rewards = {n: resolve_reward(d.reward, {}) for n, d in config.domains.items() if d.reward}
    return in_ranks(config, lambda ranks: _Sft(config, rewards, ranks), progress=progress)


class _Sft(PostRun):
    config: SftConfig

    def prepare(self, model: MiMoForCausalLM) -> None:
        for name, own in self.prompts.items():
            self.require_room(name, own)
            require_answers(own)
        ends = model.config.eos_token_ids
        if not ends:
            raise ShapeError("sft", "init", expected="a model with an end token", got="none")
        self.end = ends[0]

    def objective(self, model: MiMoForCausalLM) -> nn.Module:
        return SftObjective(model, recompute=self.config.recompute)

    def one_step(self, n: int) -> dict[str, Any]:
        prompts = self.stream.step(n)
        pairs = [(p.ids, (*(p.answer_ids or ()), self.end)) for p in prompts]
        tokens = sum(len(answer) for _, answer in pairs)
        groups = split(
            pairs[self.ranks.rank :: self.ranks.world],
            lambda pair: len(pair[0]) + len(pair[1]),
            self.config.micro_tokens,
        )
        count = most(len(groups))
        total, loads = torch.zeros((), dtype=torch.float64), torch.zeros(0)
        for i in range(count):
            real = i < len(groups)
            batch = pack_answers(groups[i] if real else pairs[:1])
            loss, own, counts = self.state.objective(batch, tokens)
            (loss * real).backward()
            self.state.optimizer.accumulate()
            total += own.double() * real
            loads = counts * real if loads.numel() == 0 else loads + counts * real
        loss = float(summed(total)) / tokens
        self.require_number("loss", loss)
        stats = self.update(loads)
        return {"loss": loss, "tokens": tokens, "grad_norm": stats.grad_norm}
