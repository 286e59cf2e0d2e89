"""Draw one token per row, reproducibly: a counter-based generator and an exact order of controls.

Everything is computed in float64. Suffixes: B rows, V vocabulary, H history.
"""

import numpy as np
import torch
from torch import Tensor

from ._common import require, require_shape

__all__ = ["philox4x32_10", "philox_uniform", "sample"]


def philox4x32_10(counter: Tensor, key: Tensor) -> Tensor:
    """The Philox4x32 generator with ten rounds (Salmon et al., SC 2011).

    counter [.., 4], key [.., 2], int64 tensors of 32-bit words -> [.., 4], words in int64.
    """
    word, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.moveaxis(counter.cpu().numpy().astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(key.cpu().numpy().astype(np.uint64), -1, 0)
    for _ in range(10):
        product0, product1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> word) ^ c1 ^ k0,
            product1 & low,
            (product0 >> word) ^ c3 ^ k1,
            product0 & low,
        )
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    words = np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)
    return torch.from_numpy(words.astype(np.int64)).to(counter.device)


def philox_uniform(seed: Tensor, position: Tensor) -> Tensor:
    """u in [0, 1) with 53 bits, the one coin of ``position`` in the stream of ``seed``.

    seed [..] and position [..] int64 -> float64 [..]. With words w = philox4x32_10(counter =
    (position low, position high, 0, 0), key = (seed low, seed high)):
    u = floor((w1 * 2^32 + w0) / 2^11) / 2^53.
    """
    low = 0xFFFFFFFF
    nought = torch.zeros_like(position)
    counter = torch.stack((position & low, position >> 32 & low, nought, nought), dim=-1)
    words = philox4x32_10(counter, torch.stack((seed & low, seed >> 32 & low), dim=-1))
    return ((words[..., 1] << 21) + (words[..., 0] >> 11)).double() * 2.0**-53


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
    """One token per row, and its log-probability before any truncation.

    logits [B, V], finite or -inf; seed, position [B] int64; controls [B], each None when off
    -> ids [B] int64, logprobs [B] float32. In this order:

    repetition   z > 0 ? z / r : z * r for every token of the history, prompt included
    presence     z - p for every token generated so far; history [B, H] holds token ids, -1 is
    frequency    z - f * count   padding, the first prompt_lens [B] (default 0) the prompt; a
                 penalised z is rounded to float32
    temperature  z / T; T = 0 takes the largest z, the lowest id among equals
    top_k        the k largest z, lowest ids among equals; 0 is off
    top_p        of these by descending z, ascending id, the fewest that hold the fraction top_p of
                 their mass, at least one; 1 is off
    min_p        of these, probabilities of at least min_p times the largest; 0 is off
    draw         over the kept ids in ascending order, the first whose cumulative mass exceeds
                 philox_uniform(seed, position) times the total

    logprobs is log softmax(logits / T) at the drawn id, over the whole vocabulary and without
    penalties, T = 0 read as 1: the policy as training sees it.
    Raises ShapeError for other shapes, NaN or +inf, controls out of range, penalties without a
    history.
    """
    _check(
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
        prompt_lens=prompt_lens,
    )
    raw_BV = z_BV = logits.double()
    penalties = (repetition_penalty, presence_penalty, frequency_penalty)
    if any(penalty is not None for penalty in penalties):
        z_BV = _penalised(raw_BV, history, prompt_lens, *penalties)

    t_B1 = _column(temperature, z_BV, 1.0)
    greedy_B, t_B1 = t_B1[:, 0] == 0, t_B1.masked_fill(t_B1 == 0, 1.0)
    z_BV = z_BV / t_B1
    ranked_BV = z_BV.sort(dim=-1, descending=True, stable=True)
    p_BV = ranked_BV.values.softmax(-1)  # by descending z, ascending id

    k_B1 = _column(top_k, z_BV, 0)
    rank_V = torch.arange(logits.shape[1], device=logits.device)
    kept_BV = (rank_V < k_B1) | (k_B1 == 0)
    mass_BV = (p_BV * kept_BV).cumsum(-1)
    before_BV = torch.nn.functional.pad(mass_BV[:, :-1], (1, 0))
    p_B1 = _column(top_p, z_BV, 1.0)
    kept_BV &= (before_BV < p_B1 * mass_BV[:, -1:]) | (p_B1 == 1)
    kept_BV &= p_BV >= _column(min_p, z_BV, 0.0) * p_BV[:, :1]
    kept_BV |= rank_V == 0  # top_p = 0 keeps the best token

    by_rank = ranked_BV.indices
    weight_BV = torch.zeros_like(p_BV).scatter(-1, by_rank, p_BV * kept_BV)
    mass_BV = weight_BV.cumsum(-1)
    # u <= 1 - 2^-53, whose product with the total rounds below the total: an id is always found.
    threshold_B1 = philox_uniform(seed, position)[:, None] * mass_BV[:, -1:]
    drawn_B1 = torch.searchsorted(mass_BV, threshold_B1, right=True)
    ids_B = torch.where(greedy_B, by_rank[:, 0], drawn_B1[:, 0])
    logprobs_BV = (raw_BV / t_B1).log_softmax(-1)
    return ids_B, logprobs_BV.gather(-1, ids_B[:, None])[:, 0].float()


def _penalised(
    z_BV: Tensor,
    history: Tensor | None,
    prompt_lens: Tensor | None,
    repetition: Tensor | None,
    presence: Tensor | None,
    frequency: Tensor | None,
) -> Tensor:
    batch, vocab = z_BV.shape
    op, remedy = "sample", "Pass the token ids so far; a row without any is all -1."
    require(history is not None, op, "history", "[B, H] token ids for the penalties", None, remedy)
    require_shape(op, "history", history, batch, "H")
    known = bool(((history >= -1) & (history < vocab)).all())
    require(known, op, "history", f"ids in [0, {vocab}), -1 as padding", history.tolist()[:4])
    slot_H = torch.arange(history.shape[1], device=history.device)
    generated = slot_H >= _column(prompt_lens, z_BV, 0)

    def counts(included: Tensor) -> Tensor:
        column = torch.where(included & (history >= 0), history, vocab).long()
        return z_BV.new_zeros(batch, vocab + 1).scatter_add(-1, column, z_BV.new_ones(column.shape))

    seen_BV = counts(torch.ones_like(generated))[:, :vocab] > 0
    made_BV = counts(generated)[:, :vocab]
    r_B1 = _column(repetition, z_BV, 1.0)
    z_BV = torch.where(seen_BV, torch.where(z_BV > 0, z_BV / r_B1, z_BV * r_B1), z_BV)
    z_BV = z_BV - _column(presence, z_BV, 0.0) * (made_BV > 0)
    z_BV = z_BV - _column(frequency, z_BV, 0.0) * made_BV
    # Rounded as every other logit is: two that are equal in float32 tie.
    return torch.where(z_BV.isinf(), z_BV, z_BV.clamp(-_LARGEST, _LARGEST).float().double())


def _column(control: Tensor | None, like: Tensor, off: float) -> Tensor:
    """The control as a float64 column [B, 1]."""
    return like.new_full((len(like), 1), off) if control is None else control.double()[:, None]


_LARGEST = torch.finfo(torch.float32).max
_RANGES = {
    "temperature": (0.0, _LARGEST),
    "top_k": (0.0, _LARGEST),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-6, _LARGEST),
    "presence_penalty": (-_LARGEST, _LARGEST),
    "frequency_penalty": (-_LARGEST, _LARGEST),
    "position": (0, 2**63 - 1),
    "prompt_lens": (0, 2**31 - 1),
}


def _check(logits: Tensor, **per_row: Tensor | None) -> None:
    op = "sample"
    require_shape(op, "logits", logits, "B", "V")
    numbers = bool((logits < float("inf")).all() and logits.isfinite().any(-1).all())
    expected = "logits that are finite or -inf, one finite in every row"
    require(numbers, op, "logits", expected, "NaN, +inf, or a row of -inf")
    for name, control in per_row.items():
        if control is None:
            continue
        require_shape(op, name, control, logits.shape[0])
        low, high = _RANGES.get(name, (-(2**63), 2**63 - 1))
        inside = bool(((control >= low) & (control <= high)).all())
        require(inside, op, name, f"values in [{low:g}, {high:g}]", control.tolist()[:8])
