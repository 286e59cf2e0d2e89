"""The router against transformers, a pure Python selection, and its own definition."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import MiMoV2FlashConfig
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as hub

from mimo_native import ShapeError, reference


def in_id_order(ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = ids.argsort(-1)
    return ids.gather(-1, order).long(), weights.gather(-1, order)


@pytest.mark.parametrize(
    ("experts", "top_k", "groups", "kept", "normalize", "scaling"),
    [
        (256, 8, 1, 1, True, 1.0),
        (384, 8, 1, 1, True, 1.0),
        (8, 2, 1, 1, True, 2.5),
        (64, 6, 8, 3, True, 1.0),
        (32, 4, 4, 2, False, 1.5),
        (16, 16, 1, 1, True, 1.0),
    ],
)
def test_route_equals_transformers(
    experts: int, top_k: int, groups: int, kept: int, normalize: bool, scaling: float
) -> None:
    torch.manual_seed(experts + groups)
    config = MiMoV2FlashConfig(
        hidden_size=32,
        n_routed_experts=experts,
        num_experts_per_tok=top_k,
        n_group=groups,
        topk_group=kept,
        norm_topk_prob=normalize,
        routed_scaling_factor=scaling,
    )
    router = hub.MiMoV2FlashTopkRouter(config)
    router.weight.data.normal_(0, 0.3)
    router.e_score_correction_bias.normal_(0, 0.2)
    with torch.no_grad():
        logits, want_weights, want_ids = router(torch.randn(300, 32))
    ids, weights = reference.route(
        logits,
        bias=router.e_score_correction_bias,
        top_k=top_k,
        normalize=normalize,
        scaling=scaling,
        n_group=groups,
        topk_group=kept,
    )
    assert ids.dtype == torch.int32
    assert weights.dtype == torch.float32
    ids, weights = in_id_order(ids, weights)
    want_ids, want_weights = in_id_order(want_ids, want_weights)
    assert ids.equal(want_ids)
    torch.testing.assert_close(weights, want_weights)


def chosen_by_hand(keys: list[Fraction], top_k: int, groups: int, kept: int) -> list[int]:
    """Sort with explicit tie rules over exact numbers."""
    size = len(keys) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    best = [sum(sorted((keys[e] for e in m), reverse=True)[:2]) for m in members]
    score = [np.float32(float(total)) for total in best]  # one float32 addition
    open_groups = sorted(range(groups), key=lambda g: (-score[g], g))[:kept]
    allowed = [e for g in open_groups for e in members[g]] if groups > 1 else range(len(keys))
    return sorted(allowed, key=lambda e: (-keys[e], e))[:top_k]


@pytest.mark.parametrize(("groups", "kept"), [(1, 1), (4, 2)])
@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_ties_go_to_the_lowest_id_in_descending_slots(scoring: str, groups: int, kept: int) -> None:
    """Few distinct logits make many exact ties, also at the edge of the selection."""
    gen = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (200, 16), generator=gen).float()
    bias = torch.tensor([0.0, 0.25] * 8)
    ids, _ = reference.route(
        logits, bias=bias, top_k=5, scoring=scoring, n_group=groups, topk_group=kept
    )
    scores = logits.sigmoid() if scoring == "sigmoid" else logits.softmax(-1)
    for row, keys in zip(ids.tolist(), (scores + bias).tolist(), strict=True):
        assert row == chosen_by_hand([Fraction(key) for key in keys], 5, groups, kept)


def test_equal_logits_choose_the_first_experts() -> None:
    ids, weights = reference.route(torch.zeros(2, 256), top_k=8)
    assert ids.tolist() == [list(range(8))] * 2
    assert weights.tolist() == [[0.125] * 8] * 2
    saturated, _ = reference.route(torch.tensor([[20.0, 30.0, 25.0, 0.0]]), top_k=2)
    assert saturated.tolist() == [[0, 1]]  # all three sigmoids are 1 in float32


def test_the_bias_chooses_and_never_weighs() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -3.0]], dtype=torch.float64)
    s = [1 / (1 + math.exp(-z)) for z in logits[0].tolist()]
    for bias, chosen in [([0, 0, 0, 0], [0, 1]), ([0, 0, 0, 1e6], [3, 0]), ([-9, 0, 0, 0], [1, 2])]:
        ids, weights = reference.route(logits, bias=torch.tensor(bias).double(), top_k=2)
        assert ids.tolist() == [chosen]
        total = sum(s[e] for e in chosen)
        assert weights[0].tolist() == pytest.approx([s[e] / total for e in chosen], rel=1e-14)


def test_tiny_scores_are_guarded_and_weights_scale() -> None:
    logits = torch.full((1, 4), -1000.0)
    assert reference.route(logits, top_k=2)[1].tolist() == [[0.0, 0.0]]
    logits = torch.tensor([[1.0, 2.0]])
    raw = reference.route(logits, top_k=2, normalize=False, scaling=3.0)[1]
    torch.testing.assert_close(raw, 3 * logits.sigmoid().flip(-1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_replayed_ids_keep_their_order_and_take_live_weights(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    recorded, live = torch.randn(6, 8), torch.randn(6, 8)
    ids, _ = reference.route(recorded, top_k=3)
    replayed, weights = reference.route(live, top_k=3, replay_ids=ids.flip(-1).to(dtype))
    assert replayed.equal(ids.flip(-1))
    scores = live.sigmoid().gather(-1, ids.flip(-1).long())
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True))


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_statistics(scoring: str) -> None:
    torch.manual_seed(4)
    logits = torch.randn(50, 6, dtype=torch.float64)
    ids, _, stats = reference.route(logits, top_k=2, scoring=scoring, return_stats=True)
    for expert in range(6):
        assert stats.counts[expert] == sum(expert in row for row in ids.tolist())
    s = 1 / (1 + (-logits).exp()) if scoring == "sigmoid" else logits.exp()
    torch.testing.assert_close(stats.mean_score, (s / s.sum(-1, keepdim=True)).mean(0))


def test_no_tokens() -> None:
    ids, weights, stats = reference.route(torch.empty(0, 8), top_k=2, return_stats=True)
    assert ids.shape == weights.shape == (0, 2)
    assert stats.counts.tolist() == [0] * 8
    assert stats.mean_score.tolist() == [0.0] * 8


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_gradients_flow_through_weights_and_statistics(scoring: str) -> None:
    gen = torch.Generator().manual_seed(5)
    logits = torch.randn(5, 6, generator=gen, dtype=torch.float64).requires_grad_()
    bias = torch.randn(6, generator=gen, dtype=torch.float64)

    def outputs(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, weights, stats = reference.route(
            logits, bias=bias, top_k=2, scoring=scoring, return_stats=True
        )
        return weights, stats.mean_score

    assert torch.autograd.gradcheck(outputs, (logits,))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 9}, "top_k"),
        ({"top_k": 2, "scoring": "tanh"}, "scoring"),
        ({"top_k": 2, "bias": torch.zeros(7)}, "bias"),
        ({"top_k": 2, "n_group": 3}, "n_group"),
        ({"top_k": 2, "n_group": 8}, "n_group"),
        ({"top_k": 5, "n_group": 2, "topk_group": 1}, "topk_group"),
        ({"top_k": 2, "topk_group": 2}, "topk_group"),
        ({"top_k": 2, "replay_ids": torch.zeros(3, 2)}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[0, 8], [0, 1]])}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[0, 1], [4, 4]])}, "replay_ids"),
    ],
)
def test_bad_requests_are_refused(options: dict, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        reference.route(torch.zeros(2, 8), **options)
    assert caught.value.argument == argument


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_nan_is_refused_with_its_place(scoring: str) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = float("nan")
    with pytest.raises(ShapeError, match=r"NaN at \(token, expert\) \[\[1, "):
        reference.route(logits, top_k=2, scoring=scoring)


def test_half_precision_logits_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"float32 or float64, got torch\.bfloat16"):
        reference.route(torch.zeros(2, 4).bfloat16(), top_k=1)
