"""The native generator against its published vectors, its draws against their distribution."""

import pytest
import torch

from mimo_native import _C, reference

from ..case import normal
from . import chi_square
from .native import draw

ALPHA = 1e-6 / 12  # for the family of twelve tables below
N = 100_000
LOGITS = torch.tensor(
    [1.5, -2.0, 0.25, 3.0, 3.0, -1.0, 0.0, 2.0, -0.5, 1.0, -torch.inf, 2.5, 0.5, -1.5, 1.75, 0.75]
)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_reproduces_the_known_answers(counter: list, key: list, words: str) -> None:
    """Random123's vectors for philox4x32-10."""
    assert _C.philox4x32_10(counter, key) == [int(word, 16) for word in words.split()]


def test_the_coins_are_those_of_the_reference() -> None:
    gen = torch.Generator().manual_seed(0)
    seed = torch.randint(-(2**63), 2**63 - 1, (500,), generator=gen)
    position = torch.randint(0, 2**63 - 1, (500,), generator=gen)
    position[::2] %= 1000
    want = reference.philox_uniform(seed, position).tolist()
    got = [_C.philox_uniform(s, p) for s, p in zip(seed.tolist(), position.tolist(), strict=True)]
    assert got == want


@pytest.mark.parametrize("over", ["positions", "seeds"])
@pytest.mark.parametrize(
    ("controls", "kept"),
    [
        ({}, list(range(16))),
        ({"temperature": 0.7}, list(range(16))),
        ({"top_k": 5}, [3, 4, 7, 11, 14]),
        ({"top_p": 0.6}, [3, 4, 11]),
        ({"temperature": 1.3, "top_k": 9, "min_p": 0.3}, [0, 3, 4, 7, 11, 14]),
    ],
)
def test_draws_follow_the_distribution(over: str, controls: dict, kept: list[int]) -> None:
    fixed = torch.full((N,), 12345)
    coins = {"positions": (fixed, torch.arange(N)), "seeds": (torch.arange(N), fixed)}[over]
    ids, _ = draw(LOGITS.expand(N, -1), seed=coins[0], position=coins[1], **controls)
    p = torch.zeros(16, dtype=torch.float64)
    p[kept] = (LOGITS[kept].double() / controls.get("temperature", 1.0)).exp()
    assert chi_square.p_value(ids.bincount(minlength=16), p) > ALPHA


def test_draws_under_penalties_follow_the_penalised_distribution() -> None:
    history = torch.tensor([[0, 3, 7, 7, 3, -1]], dtype=torch.int32).expand(N, -1).contiguous()
    ids, _ = draw(
        LOGITS.expand(N, -1),
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=0.5,
        history=history,
        prompt_lens=torch.full((N,), 2, dtype=torch.int32),
    )
    z = LOGITS.double().clone()
    z[0], z[3], z[7] = 1.5 / 1.5, 3.0 / 1.5 - 0.25 - 0.5, 2.0 / 1.5 - 0.25 - 1.0
    assert chi_square.p_value(ids.bincount(minlength=16), z.exp()) > ALPHA


def test_draws_from_many_chunks_follow_the_distribution() -> None:
    """5000 ids in five chunks, counted in groups of 100."""
    logits = normal(5000, seed=0, dtype=torch.float32)
    ids, _ = draw(logits.expand(N, -1))
    groups = logits.double().exp().view(50, 100).sum(-1)
    assert chi_square.p_value((ids // 100).bincount(minlength=50), groups) > ALPHA


def test_the_chi_square_test_can_fail() -> None:
    """The same draws against a distribution that is a few per cent off."""
    ids, _ = draw(LOGITS.expand(N, -1))
    p = (LOGITS.double() / 1.05).exp()
    assert chi_square.p_value(ids.bincount(minlength=16), p) < ALPHA


def test_fresh_positions_give_fresh_coins() -> None:
    ids, _ = draw(torch.zeros(1000, 1 << 15))
    assert ids.unique().numel() > 950
