"""The native sampler against the float64 reference at every ISA level, and its exact rules."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mimo_native import ops, reference

from ..case import check_case, normal
from .cases import CASES, SampleCase
from .native import draw, draw_with_coins

LARGE = 152_576


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sample_equals_the_reference(case: SampleCase, isa: str) -> None:
    check_case(case, ops.sample)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_takes_the_lowest_id_of_the_largest_logit(dtype: torch.dtype, isa: str) -> None:
    """Every lane, the last vector, the edges of chunks; -0 equals 0."""
    vocab = 2100
    for first in (0, 1, 15, 16, 17, 1023, 1024, 1025, 2047, 2048, 2095, 2099):
        logits = torch.full((1, vocab), -1.0, dtype=dtype)
        logits[0, first:] = 0.0
        logits[0, first] = -0.0
        ids, logprobs = draw(logits, temperature=0.0)
        assert ids.item() == first
        want = logits.double().log_softmax(-1)[0, first]
        torch.testing.assert_close(logprobs[0].double(), want, rtol=1e-6, atol=0)


def kept_intervals(logits: np.ndarray, k: int, p: float, min_p: float) -> np.ndarray:
    """[V, 2] the interval of coins that draws each id, empty where it is not kept."""
    weight = np.exp(logits - logits.max())
    order = np.lexsort((np.arange(len(weight)), -logits))[: k or None]
    mass = weight[order].cumsum()
    order = order[: np.searchsorted(mass, p * mass[-1]) + 1] if p < 1 else order
    order = order[weight[order] >= min_p]
    kept = np.zeros_like(weight)
    kept[order] = weight[order]
    ends = kept.cumsum() / kept.sum()
    return np.stack((np.concatenate(([0.0], ends[:-1])), ends), axis=-1)


@pytest.mark.parametrize("std", [0.5, 2.0, 6.0])
@pytest.mark.parametrize(
    ("k", "p", "min_p"),
    [(0, 1.0, 0.0), (50, 1.0, 0.0), (3000, 1.0, 0.0), (0, 0.95, 0.0), (0, 0.5, 0.02),
     (0, 1.0, 0.1), (700, 0.9, 0.0), (40, 0.99, 0.05)],
)  # fmt: skip
def test_large_vocabularies_against_sorting(
    std: float, k: int, p: float, min_p: float, isa: str
) -> None:
    """Peaked and flat rows: the coin lies in the interval of the id that it drew."""
    logits = normal(LARGE, seed=k, dtype=torch.float32, std=std)
    coins = torch.tensor([0.0, 1e-3, 0.2, 0.5, 0.77, 0.999, 1 - 2.0**-53], dtype=torch.float64)
    ids = draw_with_coins(logits, coins, top_k=k, top_p=p, min_p=min_p)
    interval = kept_intervals(logits.double().numpy(), k, float(np.float32(p)), min_p)
    for coin, (low, high) in zip(coins.tolist(), interval[ids.numpy()], strict=True):
        assert low < high
        assert low - 1e-6 <= coin <= high + 1e-6


def test_ties_at_the_edge_of_top_k_and_top_p_keep_the_lowest_ids(isa: str) -> None:
    logits = torch.zeros(3000)
    logits[2000] = 1.0
    coins = (torch.arange(1000) + 0.5) / 1000
    by_k = draw_with_coins(logits, coins, top_k=40)
    assert set(by_k.tolist()) == {*range(39), 2000}
    by_p = draw_with_coins(torch.zeros(4096), coins, top_p=0.25)
    assert (by_p.max().item(), by_p.unique().numel()) == (1023, 1000)


@pytest.mark.parametrize("vocab", [4, 64, 4096])
def test_the_inversion_is_exact_at_its_boundaries(vocab: int, isa: str) -> None:
    """Equal logits have equal weights: coin i / V opens the interval of id i, just below closes."""
    opens = torch.arange(vocab).double() / vocab
    logits = torch.full((vocab,), 3.0)
    below = (opens[1:] - 2.0**-53).clamp(min=0)
    for controls in ({}, {"top_k": vocab}, {"min_p": 0.5}, {"temperature": 0.3}):
        assert draw_with_coins(logits, opens, **controls).equal(torch.arange(vocab))
        assert draw_with_coins(logits, below, **controls).equal(torch.arange(vocab - 1))


@pytest.mark.parametrize(
    "controls", [{}, {"top_k": 3}, {"top_p": 0.999}, {"min_p": 1e-6}, {"temperature": 2.0}]
)
def test_extreme_coins_never_draw_an_impossible_id(controls: dict, isa: str) -> None:
    """The first and last ids have no mass, nor have whole chunks beside them."""
    coins = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    for low, high, vocab in ((1, 2, 4), (1100, 2900, 5000), (17, 18, 1025)):
        logits = torch.full((vocab,), -torch.inf)
        logits[low], logits[high] = 0.3, 0.1
        assert draw_with_coins(logits, coins, **controls).tolist() == [low, high]


def test_a_sum_that_rounds_short_draws_the_last_possible_id(isa: str) -> None:
    """Weights of many magnitudes may add up to less in the order of the ids than in a tree."""
    coin = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    for seed in range(60):
        logits = normal(1000, seed=seed, dtype=torch.float32, std=6.0)
        logits[900:] = -torch.inf
        assert draw_with_coins(logits, coin).item() < 900


@pytest.mark.parametrize("controls", [{}, {"top_k": 2}, {"top_p": 0.5}, {"temperature": 1e-30}])
def test_one_hot_rows_draw_their_id(controls: dict, isa: str) -> None:
    coins = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    for at in (0, 31, 1999):
        logits = torch.full((2000,), -torch.inf)
        logits[at] = -7.0
        assert draw_with_coins(logits, coins, **controls).tolist() == [at] * 3


@pytest.mark.parametrize(("vocab", "history"), [(600, 3000), (40_000, 60)])
def test_every_token_of_a_history_counts(vocab: int, history: int, isa: str) -> None:
    """Repeats and collisions in the table, whose tokens hold nearly all of the mass."""
    gen = torch.Generator().manual_seed(0)
    batch = 40
    args = {
        "logits": normal(batch, vocab, seed=1, dtype=torch.float32),
        "seed": torch.arange(batch),
        "position": torch.arange(batch),
        "history": torch.randint(vocab, (batch, history), generator=gen, dtype=torch.int32),
        "prompt_lens": torch.arange(batch, dtype=torch.int32),
        "repetition_penalty": torch.full((batch,), 1.2),
        "presence_penalty": torch.full((batch,), 0.3),
        "frequency_penalty": torch.full((batch,), 0.4),
    }
    args["history"][:, ::7] = -1
    args["history"][:, 1::5] = args["history"][:, 2::5][:, : len(args["history"][0, 1::5])]
    known = args["history"].clamp(min=0).long()
    args["logits"].scatter_(1, known, args["logits"].gather(1, known) + 12.0)
    assert ops.sample(**args)[0].equal(reference.sample(**args)[0])
    greedy = {**args, "temperature": torch.zeros(batch)}
    assert ops.sample(**greedy)[0].equal(reference.sample(**greedy)[0])


def test_huge_penalties_stay_finite(isa: str) -> None:
    logits = torch.tensor([[3e38, 1.0], [-3e38, -1.0]])
    history = torch.tensor([[0], [0]], dtype=torch.int32)
    for penalty in (1e-6, 1e6):  # 3e44 and -3e44 are clamped to the largest floats
        ids, logprobs = draw(logits, repetition_penalty=penalty, history=history)
        assert ids.tolist() == [0, 1]
        assert logprobs.isfinite().all()


def batch_of(rows: int) -> dict[str, Tensor]:
    case = SampleCase(
        rows=rows, vocab=3000, history=30, temperature=(0.7, 0.0, 1.0), top_k=(0, 20),
        top_p=(1.0, 0.9, 1.0, 0.5), min_p=(0.0, 0.0, 0.0, 0.0, 0.1), repetition_penalty=(1.0, 1.2),
        presence_penalty=(0.0, 0.0, 0.5), frequency_penalty=(0.0, 0.2),
    )  # fmt: skip
    return case.make()


def test_a_row_has_the_same_bits_alone_in_any_batch_and_on_any_thread(isa: str) -> None:
    args, threads, results = batch_of(60), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(ops.sample(**args))
    torch.set_num_threads(threads)
    (ids, logprobs), (again_ids, again_logprobs) = results
    assert ids.equal(again_ids)
    assert logprobs.equal(again_logprobs)
    for row in range(60):
        alone = ops.sample(**{name: value[row : row + 1] for name, value in args.items()})
        assert alone[0].item() == ids[row].item()
        assert alone[1].item() == logprobs[row].item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_be_strided(dtype: torch.dtype, isa: str) -> None:
    wide = normal(20, 300, seed=2, dtype=dtype)
    got = draw(wide[::2, 7:260], top_k=9)
    want = draw(wide[::2, 7:260].contiguous(), top_k=9)
    assert got[0].equal(want[0])
    assert got[1].equal(want[1])
