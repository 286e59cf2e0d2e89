"""Needles in a long context; the whole length is a campaign of its own, see long_context.py."""

import numpy as np
import pytest
import torch

from mimo_native import ops
from mimo_native.weights.fit import fit

from .long_context import CONFIG, build, chunked, needles, perplexity, unchunked

TOKENS = 9000  # four runs of 2048 keys and a rest


@pytest.fixture(scope="module")
def want() -> float:
    ids, at = needles(TOKENS)
    return perplexity(unchunked(build(), ids, at), ids, at)


@pytest.mark.parametrize("chunk", [777, 4096])
def test_perplexity_after_far_needles_is_that_of_the_whole(chunk: int, want: float) -> None:
    ids, at = needles(TOKENS)
    logits, cache = chunked(build(), ids, at, chunk)
    assert perplexity(logits, ids, at) == pytest.approx(want, rel=1e-5)
    assert cache.nbytes == fit(CONFIG, context=TOKENS, dtype="float32").cache_bytes


@pytest.mark.parametrize("kv_format", [None, "int8", "e4m3"])
def test_bfloat16_and_coded_caches_come_near(kv_format: str | None, want: float) -> None:
    ids, at = needles(TOKENS)
    logits, cache = chunked(build(torch.bfloat16), ids, at, 4096, kv_format)
    assert perplexity(logits, ids, at) == pytest.approx(want, rel=0.2)
    foreseen = fit(CONFIG, context=TOKENS, kv_format=kv_format).cache_bytes
    assert cache.nbytes == foreseen


def test_the_needles_are_found(want: float) -> None:
    """Other payloads in the text, the end the same: the end's perplexity is another."""
    ids, at = needles(TOKENS, shift=5)
    logits, _ = chunked(build(), ids, at, 4096)
    assert abs(perplexity(logits, ids, at) / want - 1) > 0.05


def test_angles_of_far_positions_are_those_of_the_definition() -> None:
    positions = np.array([0, 1, 131_071, 200_001, 262_143])
    theta, rotary_dim = 5_000_000.0, 64
    table = ops.rope_table(torch.tensor(positions), theta=theta, rotary_dim=rotary_dim)
    exponent = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    power = np.power(theta, exponent.astype(np.float64)).astype(np.float32)
    frequency = np.float32(1) / power
    angle = (positions.astype(np.float32)[:, None] * frequency).astype(np.float64)
    want = np.concatenate((np.cos(angle), np.sin(angle)), -1)
    assert np.abs(table.double().numpy() - want).max() <= 2.0**-24
