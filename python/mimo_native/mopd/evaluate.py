"""How well a model does on held-out prompts: verified samples, or the answer's likelihood."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..errors import ShapeError
from ..inference import Sampling, generate
from ..nn import MiMoForCausalLM
from ..training.forward import packed, trunk
from .batch import pack_answers, split
from .prompts import Prompt
from .rewards import Reward, outcome

__all__ = ["answer_logprobs", "require_answers", "verified"]

_TOKENS = 8192


@torch.inference_mode()
def verified(
    model: MiMoForCausalLM,
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    max_batch: int = 64,
) -> Tensor:
    """The reward of one sampled answer to each prompt, float64 [prompts]; the seed fixes them."""
    sampling = [
        Sampling(temperature=temperature, max_tokens=max_new_tokens, seed=(seed << 40) + i)
        for i in range(len(prompts))
    ]
    done = generate(model, [p.ids for p in prompts], sampling=sampling, max_batch=max_batch)
    values = []
    for prompt, completion in zip(prompts, done, strict=True):
        ids = completion.token_ids
        ids = ids[:-1] if completion.finish_reason == "stop" else ids
        text = ids
        if isinstance(prompt.text, str):
            assert model.tokenizer is not None
            text = model.tokenizer.decode(ids)
        values.append(outcome(prompt.domain, reward, text, prompt.answer, prompt.text))
    return torch.tensor(values, dtype=torch.float64)


@torch.inference_mode()
def answer_logprobs(
    model: MiMoForCausalLM, prompts: Sequence[Prompt], *, temperature: float = 1.0
) -> Tensor:
    """Mean log-probability per token of every prompt's own answer, float64 [prompts]."""
    require_answers(prompts)
    means = []
    for group in split(prompts, lambda p: len(p.ids) + len(p.answer_ids or ()), _TOKENS):
        batch = pack_answers([(p.ids, p.answer_ids or ()) for p in group])
        hidden = trunk(model, batch.ids, packed(batch.cu_seqlens)).hidden
        normed = model.model.norm(hidden[batch.rows])
        logprobs = ops.linear_logprob(
            normed, model.head.weight, batch.targets, temperature=temperature
        )
        means += [part.double().mean() for part in logprobs.split(batch.answers.tolist())]
    return torch.stack(means)


def require_answers(prompts: Sequence[Prompt]) -> None:
    """Raise ShapeError for a prompt whose answer is missing or empty."""
    for prompt in prompts:
        if not prompt.answer_ids:
            raise ShapeError(
                "prompts",
                f"domain {prompt.domain!r}, prompt {prompt.index}",
                expected="an answer",
                got="none",
            )
