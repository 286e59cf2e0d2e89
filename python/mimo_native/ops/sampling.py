"""The plain sampler: one token per row, reproducible by seed and position."""

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .. import reference
from ..backends import choose, native, register
from ._library import register_op

__all__ = ["sample"]

# How a token is drawn, alone or along a draft tree.
CONTROLS = (
    "seed",
    "position",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "history",
)

register(
    "sample", "cpu", dtypes=(torch.float32, torch.bfloat16), options=(*CONTROLS, "prompt_lens")
)
register(
    "sample",
    "cuda",
    dtypes=(torch.float32, torch.bfloat16),
    options=("seed", "position", "temperature"),
)


def sample(
    logits: Tensor,
    *,
    seed: Tensor,
    position: Tensor,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    presence_penalty: Tensor | None = None,
    frequency_penalty: Tensor | None = None,
    history: Tensor | None = None,
    prompt_lens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row; the same bits alone, in any batch, and on any number of threads.

    logits [B, V] float32 or bfloat16, finite or -inf, last dim contiguous; seed and position [B]
    int64, position >= 0; top_k [B] int32, the other controls [B] float32, each None when off
    -> ids [B] int64, logprobs [B] float32. In this order:

    repetition   z > 0 ? z / r : z * r for every token of the history, prompt included
    presence     z - p for every token generated so far; history [B, H] int32 holds token ids, -1 is
    frequency    z - f * count   padding, the first prompt_lens [B] int32 (default 0) the prompt; a
                 penalised z is rounded to float32
    temperature  z / T; T = 0 takes the largest z, the lowest id among equals
    top_k        the k largest z, lowest ids among equals; 0 is off
    top_p        of these by descending z, ascending id, the fewest that hold the fraction top_p of
                 their mass, at least one; 1 is off
    min_p        of these, probabilities of at least min_p times the largest; 0 is off
    draw         over the kept ids in ascending order, the first whose cumulative mass exceeds
                 u * total, u the 53-bit coin Philox4x32-10(key = seed, counter = position)

    logprobs is log softmax(logits / T) at the drawn id, over the whole vocabulary and without
    penalties, T = 0 read as 1: the policy as training sees it. Weights are float32, sums float64.
    On a GPU the only control is the temperature, values are not checked, and a row that holds NaN,
    +inf or nothing but -inf gives the id -1.
    Raises ShapeError for other shapes, NaN or +inf, a row of -inf, controls out of range, penalties
    without a history.
    """
    if is_compiling():
        return torch.ops.mimo_native.sample(
            logits,
            seed,
            position,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            history,
            prompt_lens,
        )
    backend = choose(
        "sample",
        logits,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        history=history,
        prompt_lens=prompt_lens,
    )
    if backend == "reference":
        return reference.sample(
            logits,
            seed=seed,
            position=position,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            history=history,
            prompt_lens=prompt_lens,
        )
    if backend == "cuda":
        return native(backend).sample(logits, seed, position, temperature)
    return native(backend).sample(
        logits,
        seed,
        position,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        history,
        prompt_lens,
    )


_CONTROLS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "history",
    "prompt_lens",
)


def _registered(logits, seed, position, *controls):
    named = dict(zip(_CONTROLS, controls, strict=True))
    return sample(logits, seed=seed, position=position, **named)


def _fake(logits, seed, position, *controls):
    rows = logits.shape[0]
    return logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float32)


register_op(
    "sample(Tensor logits, Tensor seed, Tensor position, "
    + ", ".join(f"Tensor? {name}" for name in _CONTROLS)
    + ") -> (Tensor, Tensor)",
    _registered,
    _fake,
)
