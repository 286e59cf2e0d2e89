"""The generator against its published vectors, the controls by hand, the draw by chi-square."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, reference


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (["00000000"] * 4, ["00000000"] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (["ffffffff"] * 4, ["ffffffff"] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            ["243f6a88", "85a308d3", "13198a2e", "03707344"],
            ["a4093822", "299f31d0"],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_reproduces_the_known_answers(counter: list, key: list, words: str) -> None:
    """Random123's vectors for philox4x32-10."""
    given = [torch.tensor([int(word, 16) for word in text]) for text in (counter, key)]
    assert reference.philox4x32_10(*given).tolist() == [int(word, 16) for word in words.split()]


def philox_in_integers(seed: int, position: int) -> tuple[int, ...]:
    c = [position & 0xFFFFFFFF, position >> 32, 0, 0]
    k = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return tuple(c)


def test_the_coin_is_the_top_53_bits_of_the_first_two_words() -> None:
    seeds, positions = [0, 1, -1, 2**63 - 1, -(2**63), 77], [0, 1, 2**32, 2**33 + 5, 2**40, 3]
    coins = reference.philox_uniform(torch.tensor(seeds), torch.tensor(positions)).tolist()
    for seed, position, coin in zip(seeds, positions, coins, strict=True):
        words = philox_in_integers(seed, position)
        assert Fraction(coin) == Fraction((words[1] << 32 | words[0]) >> 11, 2**53)


def draw(logits: Tensor, **controls: object) -> tuple[Tensor, Tensor]:
    """Sample with numbers as controls, repeated over the rows."""
    batch = logits.shape[0]
    rows = {
        name: torch.full((batch,), value, dtype=torch.int32 if name == "top_k" else torch.float32)
        if isinstance(value, int | float)
        else value
        for name, value in controls.items()
    }
    rows.setdefault("seed", torch.zeros(batch, dtype=torch.int64))
    rows.setdefault("position", torch.arange(batch))
    return reference.sample(logits, **rows)


def support(logits: list[float], **controls: object) -> set[int]:
    """Every id that 4000 draws produce: what the controls keep, if each keeps more than 1 %."""
    return set(draw(torch.tensor([logits] * 4000), **controls)[0].tolist())


def chi_square_p_value(counts: Tensor, p: Tensor) -> float:
    expected = p.double() / p.sum() * counts.sum()
    assert expected[p > 0].min() >= 20
    assert counts[p == 0].sum() == 0
    statistic = ((counts - expected)[p > 0] ** 2 / expected[p > 0]).sum()
    freedom = (p > 0).sum().double() - 1
    return torch.special.gammaincc(freedom / 2, statistic / 2).item()


LOGITS = torch.tensor(
    [1.5, -2.0, 0.25, 3.0, 3.0, -1.0, 0.0, 2.0, -0.5, 1.0, -torch.inf, 2.5, 0.5, -1.5, 1.75, 0.75]
)
ALPHA = 1e-6 / 8  # for the family of eight tables below


@pytest.mark.parametrize("over", ["positions", "seeds"])
@pytest.mark.parametrize(
    ("controls", "kept"),
    [
        ({}, list(range(16))),
        ({"temperature": 0.7}, list(range(16))),
        ({"top_k": 5}, [3, 4, 7, 11, 14]),
        ({"temperature": 1.3, "top_k": 9, "min_p": 0.3}, [0, 3, 4, 7, 11, 14]),
    ],
)
def test_draws_follow_the_distribution(over: str, controls: dict, kept: list[int]) -> None:
    n = 100_000
    fixed = torch.full((n,), 12345)
    coins = {"positions": (fixed, torch.arange(n)), "seeds": (torch.arange(n), fixed)}[over]
    ids, _ = draw(LOGITS.repeat(n, 1), seed=coins[0], position=coins[1], **controls)
    p = torch.zeros(16, dtype=torch.float64)
    p[kept] = (LOGITS[kept].double() / controls.get("temperature", 1.0)).exp()
    assert chi_square_p_value(ids.bincount(minlength=16), p) > ALPHA


def test_the_chi_square_test_can_fail() -> None:
    """The same draws against a distribution that is a few per cent off."""
    ids, _ = draw(LOGITS.repeat(60_000, 1))
    p = (LOGITS.double() / 1.05).exp()
    assert chi_square_p_value(ids.bincount(minlength=16), p) < ALPHA


def test_inverse_cdf_in_ascending_id_order() -> None:
    """Every id against the exact cumulative sum, for dyadic probabilities."""
    p = [Fraction(1, 8), Fraction(1, 2), Fraction(1, 16), Fraction(1, 4), Fraction(1, 16)]
    logits = torch.tensor([[math.log(x) for x in p]] * 2000, dtype=torch.float64)
    seed, position = torch.full((2000,), 9), torch.arange(2000)
    coins = reference.philox_uniform(seed, position).tolist()
    for coin, token in zip(coins, draw(logits, seed=seed)[0].tolist(), strict=True):
        assert sum(p[:token]) <= Fraction(coin) < sum(p[: token + 1])


def test_equal_calls_draw_equal_tokens_whatever_the_batch() -> None:
    torch.manual_seed(0)
    logits, seed, position = torch.randn(40, 50), torch.arange(40), torch.arange(40) * 7
    ids, logprobs = draw(logits, seed=seed, position=position, top_p=0.9)
    for row in (0, 13, 39):
        one = slice(row, row + 1)
        alone = draw(logits[one], seed=seed[one], position=position[one], top_p=0.9)
        assert (alone[0].item(), alone[1].item()) == (ids[row].item(), logprobs[row].item())


def test_zero_temperature_is_the_lowest_of_the_largest() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [-1.0, -1.0, -3.0, -1.0]])
    ids, logprobs = draw(logits, temperature=0.0)
    assert ids.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0])


def test_controls_differ_by_row() -> None:
    logits = torch.tensor([[0.0, 0.0, 5.0, 0.0]]).repeat(4, 1)
    ids, _ = draw(
        logits.repeat(500, 1),
        temperature=torch.tensor([0.0, 1e6, 1e6, 1e6]).repeat(500),
        top_k=torch.tensor([0, 0, 1, 2]).repeat(500),
    )
    rows = [set(ids[row::4].tolist()) for row in range(4)]
    assert rows == [{2}, {0, 1, 2, 3}, {2}, {0, 2}]


def test_top_k_prefers_the_lowest_of_equals() -> None:
    assert support([1.0, 2.0, 1.0, 1.0], top_k=2) == {0, 1}
    assert support([1.0, 2.0, 1.0, 1.0], top_k=3) == {0, 1, 2}
    assert support([1.0, 2.0, 1.0, 1.0], top_k=0) == {0, 1, 2, 3}
    assert support([1.0, 2.0, 1.0, 1.0], top_k=99) == {0, 1, 2, 3}


def nucleus(p: list[Fraction], top_k: int, top_p: Fraction, min_p: Fraction) -> set[int]:
    """By descending probability and ascending id, in exact arithmetic."""
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: top_k or len(p)]
    total, mass, kept = sum(p[i] for i in order), Fraction(0), []
    for i in order:
        if kept and top_p < 1 and mass >= top_p * total:
            break
        kept.append(i)
        mass += p[i]
    return {i for i in kept if p[i] >= min_p * p[order[0]]}


SIXTEENTHS = [2, 4, 1, 4, 2, 1, 1, 1]  # over 16, with ties on every level


@pytest.mark.parametrize("top_k", [0, 1, 3, 4, 7])
@pytest.mark.parametrize("top_p", [0.0, 0.25, 0.375, 0.5, 0.625, 0.6875, 0.9375, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.25, 0.375, 0.5, 1.0])
def test_top_k_top_p_min_p_by_brute_force(top_k: int, top_p: float, min_p: float) -> None:
    # Many edges of top_p and min_p fall on a mass exactly; logarithms are not exact, so compare a
    # hair below and a hair above.
    p = [Fraction(x, 16) for x in SIXTEENTHS]
    logits = [math.log(x) for x in SIXTEENTHS]
    for nudge in (-1e-4, 1e-4):
        edge = min(max(top_p + nudge, 0.0), 1.0)
        floor = min(max(min_p + nudge, 0.0), 1.0)
        # float32 holds the controls: compare with the very number that the sampler sees.
        edge, floor = (Fraction(float(np.float32(x))) for x in (edge, floor))
        got = support(logits, top_k=top_k, top_p=float(edge), min_p=float(floor))
        assert got == nucleus(p, top_k, edge, floor)


def test_top_p_reaches_its_mass_exactly() -> None:
    """Four equal probabilities are exact in binary: one half needs two, a hair more needs three."""
    equal = [0.0] * 4
    assert support(equal, top_p=0.0) == {0}
    assert support(equal, top_p=0.25) == {0}
    assert support(equal, top_p=0.5) == {0, 1}
    assert support(equal, top_p=0.75) == {0, 1, 2}
    assert support(equal, top_p=float(np.nextafter(np.float32(0.5), np.float32(1)))) == {0, 1, 2}
    assert support(equal, min_p=1.0) == {0, 1, 2, 3}


def test_one_hot_and_masked_tokens_are_never_missed() -> None:
    logits = torch.full((500, 9), -torch.inf)
    logits[:, 6] = -3.0
    ids, logprobs = draw(logits)
    assert ids.eq(6).all()
    assert logprobs.eq(0).all()
    logits[:, 2] = -4.0
    assert set(draw(logits)[0].tolist()) == {2, 6}


def test_a_coin_next_to_one_takes_the_last_token_with_mass(monkeypatch) -> None:
    top = torch.full((3,), 1 - 2.0**-53, dtype=torch.float64)
    monkeypatch.setattr("mimo_native.reference.sampling.philox_uniform", lambda *_: top)
    torch.manual_seed(1)
    logits = torch.randn(3, 7)
    logits[:, 5:] = -torch.inf
    assert draw(logits)[0].tolist() == [4, 4, 4]
    monkeypatch.setattr("mimo_native.reference.sampling.philox_uniform", lambda *_: top * 0)
    logits[:, 0] = -torch.inf
    assert draw(logits)[0].tolist() == [1, 1, 1]


def test_penalties_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0, -4.0]])
    history = torch.tensor([[0, 1, 3, 3, 1, -1]], dtype=torch.int32)  # prompt 0, 1; then 3, 3, 1
    # repetition 2 halves positive and doubles negative logits of 0, 1, 3; presence takes 0.25 of
    # 1 and 3; frequency takes 0.5 of 1 and 1.0 of 3.
    z = torch.tensor([[1.0, -2.0 - 0.25 - 0.5, 0.5, 1.5 - 0.25 - 1.0, -4.0]])
    n = 40_000
    ids, logprobs = draw(
        logits.repeat(n, 1),
        repetition_penalty=2.0,
        presence_penalty=0.25,
        frequency_penalty=0.5,
        history=history.repeat(n, 1),
        prompt_lens=torch.full((n,), 2, dtype=torch.int32),
    )
    assert chi_square_p_value(ids.bincount(minlength=5), z[0].double().exp()) > ALPHA
    want = logits.repeat(n, 1).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logprobs, want)  # before the penalties


def test_penalties_act_before_the_argmax() -> None:
    logits, history = torch.tensor([[3.0, 2.0]]), torch.tensor([[0, 0]], dtype=torch.int32)
    prompt = torch.tensor([1], dtype=torch.int32)
    past = {"temperature": 0.0, "history": history}
    assert draw(logits, frequency_penalty=0.4, **past)[0].item() == 0
    assert draw(logits, frequency_penalty=0.6, **past)[0].item() == 1
    assert draw(logits, frequency_penalty=0.6, prompt_lens=prompt, **past)[0].item() == 0
    assert draw(logits, repetition_penalty=2.0, prompt_lens=prompt, **past)[0].item() == 1


def test_logprobs_ignore_truncation_and_follow_temperature() -> None:
    torch.manual_seed(2)
    logits = torch.randn(50, 30)
    ids, logprobs = draw(logits, temperature=0.5, top_k=3, top_p=0.8)
    want = (logits.double() / 0.5).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    assert logprobs.equal(want.float())


def test_half_precision_logits_are_taken_as_they_are() -> None:
    torch.manual_seed(3)
    logits = torch.randn(20, 30).bfloat16()
    assert draw(logits)[0].equal(draw(logits.double())[0])


def test_no_rows() -> None:
    ids, logprobs = draw(torch.empty(0, 5), top_p=0.9)
    assert ids.shape == logprobs.shape == (0,)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("logits", "controls", "argument"),
    [
        ([[0.0, NAN]], {}, "logits"),
        ([[0.0, INF]], {}, "logits"),
        ([[-INF, -INF]], {}, "logits"),
        ([0.0, 1.0], {}, "logits"),
        ([[0.0, 1.0]], {"temperature": -0.1}, "temperature"),
        ([[0.0, 1.0]], {"temperature": NAN}, "temperature"),
        ([[0.0, 1.0]], {"temperature": INF}, "temperature"),
        ([[0.0, 1.0]], {"top_k": -1}, "top_k"),
        ([[0.0, 1.0]], {"top_p": 1.5}, "top_p"),
        ([[0.0, 1.0]], {"min_p": -0.5}, "min_p"),
        ([[0.0, 1.0]], {"seed": torch.zeros(2, dtype=torch.int64)}, "seed"),
        ([[0.0, 1.0]], {"position": torch.tensor([-1])}, "position"),
        ([[0.0, 1.0]], {"repetition_penalty": 0.0}, "repetition_penalty"),
        ([[0.0, 1.0]], {"repetition_penalty": 1.5}, "history"),
        ([[0.0, 1.0]], {"presence_penalty": 1.5, "history": torch.tensor([[2]])}, "history"),
    ],
)
def test_bad_requests_are_refused(logits: list, controls: dict, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        draw(torch.tensor(logits), **controls)
    assert caught.value.argument == argument
