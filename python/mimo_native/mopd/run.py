"""Multi-teacher on-policy distillation: sample, verify, ask the teachers, learn (section 4)."""

import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..nn import MiMoForCausalLM
from ..pretrain.run import RunResult
from ..weights.formats import resolve_formats
from .batch import pack_answers, split
from .config import MopdConfig
from .evaluate import require_answers
from .loop import PostRun, in_ranks, most, summed
from .metrics import StepMetrics
from .objective import PolicyBatch, PolicyObjective
from .policy import token_shares
from .rewards import Reward, needs_answers, resolve_reward
from .rollout import Rollout, reward, sample
from .teachers import Head, Teachers

__all__ = ["run"]

_SAME_ORIGIN = 0.1  # nats per token; a teacher of the same origin starts below


def run(
    config: MopdConfig,
    *,
    rewards: Mapping[str, Reward] | None = None,
    progress: bool = False,
) -> RunResult:
    """Train ``config.init`` on its own rollouts; continues where it stopped.

    With teachers and alpha 0 this is distillation (equation 8), with alpha and no teacher GRPO,
    with both equation 9. rewards: callables by the names that domains give. Writes config.json,
    metrics.jsonl, checkpoints/ and final/ in ``config.output``. Under torchrun every process calls
    it. Raises ShapeError, UnsupportedError or CheckpointError for a wrong configuration, prompt,
    reward or teacher, FloatingPointError for a loss that is no number; checkpoints are then as they
    were.
    """
    verifiers = {
        name: resolve_reward(domain.reward, rewards or {})
        for name, domain in config.domains.items()
        if domain.reward is not None
    }
    return in_ranks(config, lambda ranks: _Mopd(config, verifiers, ranks), progress=progress)


class _Mopd(PostRun):
    config: MopdConfig

    def prepare(self, model: MiMoForCausalLM) -> None:
        resolve_formats(model.config.unquantized(), self.config.rollout_format, model.dtype)
        self.teachers = Teachers(self.config, model)
        if self.config.on_bad == "raise":
            for name, prompts in self.prompts.items():
                self.require_room(name, prompts, sampled=True)
                if name in self.rewards and needs_answers(self.rewards[name]):
                    require_answers(prompts)

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"teachers": self.teachers.manifest}

    def objective(self, model: MiMoForCausalLM) -> nn.Module:
        config = self.config
        return PolicyObjective(
            model,
            config.loss,
            temperature=config.temperature,
            mtp_weight=config.mtp_weight,
            recompute=config.recompute,
        )

    # ------------------------------------------------------------------ one step

    def one_step(self, n: int) -> dict[str, Any]:
        clock = time.perf_counter()
        rollouts, skipped = self._rollouts(n)
        sampled = time.perf_counter()
        heads = self.teachers.score(rollouts)
        scored = time.perf_counter()
        metrics = StepMetrics(list(self.config.domains))
        metrics.skipped = skipped
        loads = self._backward(rollouts, heads, metrics)
        metrics.sum_ranks()
        if metrics.masked == metrics.tokens and self.config.on_bad == "raise":
            self.state.optimizer.zero_grad()
            raise ShapeError(
                "mopd",
                "ratio_low, ratio_high",
                expected="some tokens inside the band",
                got=f"all {metrics.tokens} tokens outside of it at step {n + 1}",
                remedy="The sampler's weights are not the policy's, or the band is too narrow.",
            )
        loss = metrics.loss
        self.require_number("loss", loss)
        stats = self.update(loads)
        values = metrics.to_dict()
        if n == 0:
            values["initial_kl"] = self._initial_kl(values["domains"])
        done = time.perf_counter()
        times = {"sample": sampled - clock, "teachers": scored - sampled, "train": done - scored}
        return values | {"grad_norm": stats.grad_norm, "times": times}

    def _rollouts(self, n: int) -> tuple[list[Rollout], int]:
        """This rank's rollouts of step ``n``, verified, and how many were left out."""
        config = self.config
        numbered = list(enumerate(self.stream.step(n), n * config.prompts_per_step))
        fitting = [
            (number, prompt)
            for number, prompt in numbered[self.ranks.rank :: self.ranks.world]
            if len(prompt.ids) + config.max_new_tokens <= self.limit
        ]
        model = self.sampler(format=config.rollout_format)
        assert model is not None
        rollouts = sample(model, fitting, config) if fitting else []
        mine = len(numbered[self.ranks.rank :: self.ranks.world]) * config.rollouts_per_prompt
        too_long = mine - len(rollouts)
        kept, skipped = reward(rollouts, self.rewards, model, config)
        return kept, skipped + too_long

    def _backward(
        self, rollouts: Sequence[Rollout], heads: Mapping[str, Head], metrics: StepMetrics
    ) -> Tensor:
        config, state = self.config, self.state
        whole = [r.prompt.ids + r.tokens for r in rollouts]
        counts = [len(rollouts), sum(len(r.tokens) for r in rollouts)]
        mtp = state.model.config.num_mtp_layers if config.mtp_weight else 0
        counts += [sum(max(len(w) - k - 2, 0) for w in whole) for k in range(mtp)]
        sequences, tokens, *mtp_tokens = summed(torch.tensor(counts)).tolist()
        if sequences == 0:
            raise ShapeError(
                "mopd", "rollouts", expected="at least one that stays", got="all were skipped"
            )
        totals = tuple(max(count, 1) for count in mtp_tokens)
        groups = self._groups(rollouts)
        loads = torch.zeros(0)
        for i in range(most(len(groups))):
            real = i < len(groups)
            batch = self._pack(groups[i] if real else [_stand_in(self.prompts)], heads)
            shares = token_shares(batch.answers.answers, config.loss.normalise, sequences, tokens)
            batch = batch.with_share(shares * real)
            terms = state.objective(batch, totals)
            (terms.loss * real).backward()
            state.optimizer.accumulate()
            if real:
                metrics.add(groups[i], batch, terms, config.loss)
            own = terms.counts * real
            loads = own if loads.numel() == 0 else loads + own
        metrics.mtp_tokens = mtp_tokens
        return loads

    def _groups(self, rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
        """Micro-batches, each of one teacher."""
        by_teacher: dict[str | None, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            by_teacher[self.config.domains[rollout.prompt.domain].teacher].append(rollout)
        return [
            group
            for _, own in sorted(by_teacher.items(), key=lambda item: item[0] or "")
            for group in split(own, lambda r: len(r.fed), self.config.micro_tokens)
        ]

    def _pack(self, group: Sequence[Rollout], heads: Mapping[str, Head]) -> PolicyBatch:
        answers = pack_answers([(r.prompt.ids, r.tokens) for r in group])
        teacher = self.config.domains[group[0].prompt.domain].teacher
        replay = None
        if self.config.replay and group[0].routing is not None:
            replay = torch.cat([r.routing for r in group if r.routing is not None], 1)
        taught = group[0].teacher is not None
        hidden = group[0].teacher_hidden is not None
        return PolicyBatch(
            answers=answers,
            sampler=torch.tensor([p for r in group for p in r.logprobs]),
            outcome=torch.repeat_interleave(
                torch.tensor([r.advantage for r in group]), answers.answers
            ),
            share=torch.zeros(0),
            teacher=torch.cat([r.teacher for r in group]) if taught else None,
            teacher_hidden=torch.cat([r.teacher_hidden for r in group]) if hidden else None,
            teacher_head=heads.get(teacher) if teacher is not None else None,
            replay_ids=None if replay is None else replay.to(torch.int32),
        )

    def _initial_kl(self, domains: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Reverse KL per domain before any training; warns where a teacher is a stranger."""
        kl = {name: -d["gap"] for name, d in domains.items() if "gap" in d}
        strange = {name: round(value, 3) for name, value in kl.items() if value > _SAME_ORIGIN}
        if strange:
            warnings.warn(
                f"mopd: initial KL above {_SAME_ORIGIN} nats per token: {strange}. Distillation is "
                "stable from teachers that come from the student's own checkpoint.",
                stacklevel=2,
            )
        return kl


def _stand_in(prompts: Mapping[str, Sequence[Any]]) -> Rollout:
    """What a rank without rollouts of its own runs along, counting for nothing."""
    prompt = next(iter(prompts.values()))[0]
    return Rollout(prompt, 0, (prompt.ids[0],), (0.0,), None, True)
