"""The native router against the float64 reference, at every ISA level, and its exact rules."""

import pytest
import torch
from torch import Tensor

from mimo_native import ops, reference

from ..case import check_case, normal
from .cases import CASES, RouteCase


@pytest.mark.parametrize("case", CASES, ids=str)
def test_route_equals_the_reference(case: RouteCase, isa: str) -> None:
    check_case(case, ops.route)


def chosen_by_sorting(keys: Tensor, top_k: int) -> Tensor:
    order = [sorted(range(len(row)), key=lambda e: (-row[e], e))[:top_k] for row in keys.tolist()]
    return torch.tensor(order, dtype=torch.int32)


@pytest.mark.parametrize("top_k", [1, 8, 16, 17, 33, 64])
@pytest.mark.parametrize("experts", [64, 97, 256, 1024])
def test_few_distinct_keys_choose_the_lowest_ids(experts: int, top_k: int, isa: str) -> None:
    """From all keys equal to all but a few different: ties at the edge, above and below it."""
    for distinct in (1, 2, 3, 50):
        gen = torch.Generator().manual_seed(distinct)
        logits = torch.randint(distinct, (20, experts), generator=gen).float() / 8
        ids, _ = ops.route(logits, top_k=top_k)
        assert ids.equal(chosen_by_sorting(logits, top_k))


def test_saturated_scores_are_ties(isa: str) -> None:
    """Three sigmoids are 1 in float32, and no weight is a NaN where all scores vanish."""
    ids, weights = ops.route(torch.tensor([[20.0, 30.0, 25.0, 0.0], [-500.0] * 4]), top_k=2)
    assert ids.tolist() == [[0, 1], [0, 1]]
    assert weights.tolist() == [[0.5, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize("position", [0, 15, 16, 100, 255])
def test_ascending_and_descending_rows_and_lone_peaks(position: int, isa: str) -> None:
    """Every lane and vector of the selection is the best one once."""
    ramp = torch.arange(256.0) / 64
    lone = torch.zeros(256)
    lone[position] = 3.0
    ids, _ = ops.route(torch.stack((ramp, ramp.flip(0), lone)), top_k=8)
    best = [position, *(e for e in range(8) if e != position)][:8]
    assert ids.tolist() == [list(range(255, 247, -1)), list(range(8)), best]


def test_a_bias_of_minus_infinity_hides_experts(isa: str) -> None:
    logits = normal(6, 32, seed=0, dtype=torch.float32)
    bias = torch.full((32,), -torch.inf)
    bias[5:9] = 0.0
    ids, _ = ops.route(logits, bias=bias, top_k=6)
    for row in ids.tolist():
        assert sorted(row[:4]) == [5, 6, 7, 8]
        assert row[4:] == [0, 1]


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_a_token_has_the_same_bits_alone_in_any_batch_and_on_any_thread(
    scoring: str, isa: str
) -> None:
    logits = normal(300, 256, seed=1, dtype=torch.float32)
    bias = normal(256, seed=2, dtype=torch.float32, std=0.1)
    options = {"bias": bias, "top_k": 8, "scoring": scoring, "return_stats": True}
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        ids, weights, stats = ops.route(logits, **options)
        results.append((ids, weights, *stats))
    torch.set_num_threads(threads)
    assert all(a.equal(b) for a, b in zip(*results, strict=True))
    for t in (0, 63, 64, 299):
        alone_ids, alone_weights, _ = ops.route(logits[t : t + 1], **options)
        assert alone_ids.equal(ids[t : t + 1])
        assert alone_weights.equal(weights[t : t + 1])


def test_rows_may_be_strided(isa: str) -> None:
    wide = normal(70, 64, seed=3, dtype=torch.float32)
    ids, weights = ops.route(wide[::2, 10:43], top_k=5)
    want_ids, want_weights = ops.route(wide[::2, 10:43].contiguous(), top_k=5)
    assert ids.equal(want_ids)
    assert weights.equal(want_weights)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_replay_of_the_own_choice_changes_no_bit(dtype: torch.dtype, isa: str) -> None:
    logits = normal(20, 200, seed=4, dtype=torch.float32)
    ids, weights = ops.route(logits, top_k=6)
    recorded = torch.stack((ids, ids)).to(dtype)[1]
    replayed, again = ops.route(logits, top_k=6, replay_ids=recorded)
    assert replayed.dtype == torch.int32
    assert replayed.equal(ids)
    assert again.equal(weights)


def test_all_levels_choose_alike() -> None:
    """The levels may differ in the last bits of a score, never in a decided choice."""
    from mimo_native import _C

    case = RouteCase(tokens=500, experts=256, top_k=8, bias="normal")
    before, chosen = _C.isa(), []
    for level in _C.isa_levels():
        _C.set_isa(level)
        chosen.append(ops.route(**case.make())[0])
    _C.set_isa(before)
    assert all(ids.equal(reference.route(**case.make())[0]) for ids in chosen)
