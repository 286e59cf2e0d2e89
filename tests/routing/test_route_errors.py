"""Whatever is wrong with a request, route says so and returns nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_native import ShapeError, UnsupportedError, ops, reference

NAN, INF = float("nan"), float("inf")
LOGITS = torch.arange(16.0).view(2, 8) / 16


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": -3}, "top_k"),
        ({"top_k": 9}, "top_k"),
        ({"top_k": 10**12}, "top_k"),
        ({"top_k": 2, "scoring": "tanh"}, "scoring"),
        ({"top_k": 2, "scaling": NAN}, "scaling"),
        ({"top_k": 2, "bias": torch.zeros(7)}, "bias"),
        ({"top_k": 2, "bias": torch.zeros(8).double()}, "bias"),
        ({"top_k": 2, "bias": torch.zeros(8).bfloat16()}, "bias"),
        ({"top_k": 2, "bias": torch.zeros(16)[::2]}, "bias"),
        ({"top_k": 2, "bias": torch.tensor([0.0] * 7 + [NAN])}, "bias"),
        ({"top_k": 2, "bias": torch.tensor([0.0] * 7 + [INF])}, "bias"),
        ({"top_k": 2, "n_group": 0}, "n_group"),
        ({"top_k": 2, "n_group": 3}, "n_group"),
        ({"top_k": 2, "n_group": 8}, "n_group"),
        ({"top_k": 5, "n_group": 2}, "topk_group"),
        ({"top_k": 2, "topk_group": 2}, "topk_group"),
        ({"top_k": 2, "n_group": 4, "topk_group": 0}, "topk_group"),
        ({"top_k": 2, "replay_ids": torch.zeros(3, 2, dtype=torch.int64)}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.zeros(1, 2, dtype=torch.int64)}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.zeros(2, 3, dtype=torch.int64)}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.zeros(2, 2)}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[0, 8], [0, 1]])}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[0, 1], [-1, 1]])}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[0, 1], [4, 4]])}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[2**32, 1], [4, 3]])}, "replay_ids"),
        ({"top_k": 2, "replay_ids": torch.tensor([[0, 1], [4, 3]]).T}, "replay_ids"),
    ],
)
def test_bad_requests_are_refused(options: dict, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        ops.route(LOGITS, **options)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(8),
        torch.zeros(()),
        torch.zeros(2, 2, 8),
        torch.zeros(8, 2).T,
        torch.zeros(2, 1025),
        torch.zeros(2, 0),
    ],
)
def test_bad_logits_are_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="logits"):
        ops.route(logits, top_k=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_other_dtypes_are_refused_with_the_way_out(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedError, match="float32"):
        ops.route(LOGITS.to(dtype), top_k=2)


@pytest.mark.parametrize("expert", [0, 17, 255, 256])
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_nan_is_found_in_every_lane(scoring: str, replay: bool, expert: int, isa: str) -> None:
    logits = torch.zeros(300, 257)
    logits[200, expert] = NAN
    ids = torch.tensor([[3, 4]]).repeat(300, 1) if replay else None
    with pytest.raises(ShapeError, match=f"NaN at token 200, expert {expert}") as caught:
        ops.route(logits, top_k=2, scoring=scoring, replay_ids=ids)
    assert caught.value.argument == "logits"


def test_a_row_without_a_softmax_is_refused(isa: str) -> None:
    for row in ([INF, 0.0], [-INF, -INF]):
        with pytest.raises(ShapeError, match="softmax"):
            ops.route(torch.tensor([row]), top_k=1, scoring="softmax")
        ids, weights = ops.route(torch.tensor([row]), top_k=1)  # a sigmoid is defined
        assert (ids.tolist(), weights.tolist()) == ([[0]], [[1.0 if row[0] > 0 else 0.0]])


@settings(max_examples=150, deadline=None)
@given(
    tokens=st.integers(0, 3),
    experts=st.integers(1, 12),
    top_k=st.integers(-1, 13),
    n_group=st.integers(-1, 7),
    topk_group=st.integers(-1, 7),
    ids=st.lists(st.integers(-1, 12), min_size=0, max_size=6),
)
def test_native_and_reference_refuse_the_same(
    tokens: int, experts: int, top_k: int, n_group: int, topk_group: int, ids: list[int]
) -> None:
    """Any combination of sizes is either served alike or refused by both for the same argument."""
    gen = torch.Generator().manual_seed(0)
    logits = torch.randint(4, (tokens, experts), generator=gen).float()
    options = {"top_k": top_k, "n_group": n_group, "topk_group": topk_group}
    if ids and tokens:
        options["replay_ids"] = torch.tensor(ids).repeat(tokens, 1)
    answers = []
    for route in (ops.route, reference.route):
        try:
            answers.append(route(logits, **options)[0].tolist())
        except ShapeError as error:
            answers.append(error.argument)
    assert answers[0] == answers[1]
