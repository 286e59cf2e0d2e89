"""Rollouts: the policy's own answers, what drawing them was worth, and the experts they took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError
from ..inference import Sampling, generate
from ..nn import MiMoForCausalLM
from .config import MopdConfig
from .policy import group_advantages
from .prompts import Prompt
from .rewards import Reward, outcome

__all__ = ["Rollout", "check_routing", "reward", "sample"]


@dataclass
class Rollout:
    """A sampled answer: tokens and log mu of each.

    routing [moe layers, prompt + tokens - 1, K]: the experts of every token fed. reward None: the
    domain has none. teacher float32 [tokens]: log T, once scored; teacher_hidden [tokens, D'] in
    the forms that compare distributions.
    """

    prompt: Prompt
    group: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    routing: Tensor | None
    ended: bool
    reward: float | None = None
    advantage: float = 0.0
    teacher: Tensor | None = None
    teacher_hidden: Tensor | None = None

    @property
    def fed(self) -> tuple[int, ...]:
        """Every token but the last, which nothing follows."""
        return (*self.prompt.ids, *self.tokens)[:-1]


def sample(
    model: MiMoForCausalLM, prompts: Sequence[tuple[int, Prompt]], config: MopdConfig
) -> list[Rollout]:
    """``rollouts_per_prompt`` answers to each prompt, from the whole distribution.

    prompts: with their numbers in the run, which fix every draw together with the seed. Top-k,
    top-p, min-p and penalties do not exist here: mu would not be what pi is compared with.
    """
    many = config.rollouts_per_prompt
    sampling = [
        Sampling(
            temperature=config.temperature,
            max_tokens=config.max_new_tokens,
            seed=(config.seed << 40) + number * many + n,
            logprobs=True,
        )
        for number, _ in prompts
        for n in range(many)
    ]
    completions = generate(
        model,
        [prompt.ids for _, prompt in prompts for _ in range(many)],
        sampling=sampling,
        max_batch=config.rollout_batch,
        record_routing=config.replay,
        speculative=config.speculative,
    )
    rollouts = []
    for i, done in enumerate(completions):
        prompt = prompts[i // many][1]
        rollout = Rollout(
            prompt,
            i // many,
            tuple(done.token_ids),
            tuple(done.logprobs or ()),
            done.routing if config.replay else None,
            done.finish_reason == "stop",
        )
        if config.replay and rollout.tokens:
            check_routing(rollout, model)
        rollouts.append(rollout)
    return rollouts


def check_routing(rollout: Rollout, model: MiMoForCausalLM) -> None:
    """Raise ShapeError where the experts on record cannot be those of this rollout."""
    config = model.config
    layers = sum(config.moe_layer_freq)
    if not layers:
        return
    shape = (layers, len(rollout.fed), config.num_experts_per_tok)
    ids = rollout.routing
    got = "none" if ids is None else str(list(ids.shape))
    if ids is None or tuple(ids.shape) != shape:
        raise ShapeError(
            "mopd",
            "routing",
            expected=f"[moe layers, tokens fed, top k] = {list(shape)}",
            got=got,
            remedy="Record the experts of every token that is fed, once.",
        )
    ids = ids.long()
    experts = config.n_routed_experts
    twice = (ids.sort(-1).values.diff(dim=-1) == 0).any() if shape[-1] > 1 else False
    if bool(twice) or bool(((ids < 0) | (ids >= experts)).any()):
        raise ShapeError(
            "mopd",
            "routing",
            expected=f"{shape[-1]} different experts in [0, {experts}) per token",
            got="a repeated or unknown expert",
        )


def reward(
    rollouts: Sequence[Rollout],
    rewards: Mapping[str, Reward],
    model: MiMoForCausalLM,
    config: MopdConfig,
) -> tuple[list[Rollout], int]:
    """Reward every rollout whose domain has a verifier, and fill in the outcome advantages.

    Returns the rollouts that stay and how many were skipped (only with ``on_bad="skip"``): those
    without a token, and those whose reward is no number.
    """
    kept: list[Rollout] = []
    for rollout in rollouts:
        domain = rollout.prompt.domain
        try:
            _require_tokens(rollout)
            if domain in rewards:
                rollout.reward = outcome(
                    domain,
                    rewards[domain],
                    _readable(rollout, model),
                    rollout.prompt.answer,
                    rollout.prompt.text,
                )
        except ShapeError:
            if config.on_bad == "raise":
                raise
            continue
        kept.append(rollout)
    if kept:
        values = [float("nan") if r.reward is None else r.reward for r in kept]
        groups = torch.tensor([r.group for r in kept])
        for rollout, advantage in zip(
            kept, group_advantages(torch.tensor(values), groups).tolist(), strict=True
        ):
            rollout.advantage = advantage
    return kept, len(rollouts) - len(kept)


def _require_tokens(rollout: Rollout) -> None:
    if not rollout.tokens:
        raise ShapeError(
            "mopd",
            f"domain {rollout.prompt.domain!r}, prompt {rollout.prompt.index}",
            expected="a rollout of at least one token, the end token if nothing else",
            got="an empty one",
            remedy='Set on_bad="skip" to leave such rollouts out and count them.',
        )


def _readable(rollout: Rollout, model: MiMoForCausalLM) -> str | tuple[int, ...]:
    """The answer as the prompt is: text, or ids without the end token."""
    tokens = rollout.tokens[:-1] if rollout.ended else rollout.tokens
    if isinstance(rollout.prompt.text, str):
        assert model.tokenizer is not None
        return model.tokenizer.decode(tokens)
    return tokens
