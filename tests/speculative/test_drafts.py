"""Where drafts come from: copied text, the choice of a tree, and the policy."""

import math
import random

import pytest

from mimo_native import _C
from mimo_native.inference.speculation.draft import TreeShape, best_first, chain, extend, merge
from mimo_native.inference.speculation.ngram import NGrams
from mimo_native.inference.speculation.policy import Costs, Policy


def _naive(tokens: list[int], length: int, drafted: tuple[int, ...] | list[int] = ()):
    ending = [*tokens, *drafted]
    for size in range(8, 1, -1):
        for at in range(len(tokens) - size - 1, -1, -1):
            if tokens[at : at + size] == ending[-size:] and len(tokens) > size:
                return tokens[at + size : at + size + length], size
    return [], 0


def test_copied_text_is_what_followed_the_latest_longest_match() -> None:
    rng = random.Random(0)
    found = 0
    for _ in range(50):
        tokens, table = [], NGrams()
        while len(tokens) < 60:
            tokens += [rng.randrange(4) for _ in range(rng.randrange(1, 6))]
            expected = _naive(tokens, 7)
            assert table.look_up(tokens, 7) == expected
            rows = _C.SpeculativeRows(1, 0, 1)
            rows.open(0, tokens, 0, 1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0)
            assert rows.find_copy(0, 7) == expected
            drafted = [rng.randrange(4) for _ in range(rng.randrange(1, 4))]
            assert table.look_up(tokens, 7, drafted) == _naive(tokens, 7, drafted)
            found += bool(expected[0])
    assert found > 200


def test_best_first_takes_the_likeliest_nodes_as_a_tree() -> None:
    scores = {(1,): -0.1, (2,): -2.0, (1, 3): -0.2, (1, 4): -3.0, (1, 3, 5): -0.2, (2, 6): -2.5}
    draft = best_first(scores, TreeShape(budget=4))
    assert set(draft.paths()) == {(1,), (1, 3), (1, 3, 5), (2,)}
    for node, parent in enumerate(draft.parents):
        assert parent < node


def test_merging_shares_common_beginnings() -> None:
    both = merge(chain([1, 2, 3]), chain([1, 2, 9, 8]), 64)
    assert both.paths() == [(1,), (1, 2), (1, 2, 3), (1, 2, 9), (1, 2, 9, 8)]
    assert merge(chain([1, 2, 3]), chain([7]), 3).paths() == [(1,), (1, 2), (1, 2, 3)]


def test_copied_text_goes_below_the_deepest_path() -> None:
    tree = extend(merge(chain([1, 2]), chain([3]), 64), [7, 8, 9], 5)
    assert tree.paths() == [(1,), (1, 2), (3,), (1, 2, 7), (1, 2, 7, 8), (1, 2, 7, 8, 9)]
    assert (tree.copied, tree.extended, tree.deepest) == (3, 5, 5)


def test_extensions_follow_what_they_brought() -> None:
    """Copies below a path that are refused are given up, those that are accepted become long."""
    policy = Policy(True)
    for _ in range(10):
        policy.record_plain(1.0)
    for nodes in (1, 2, 3, 4):
        policy.costs.record(nodes, 0.9 + 0.1 * nodes, 1, 0.2)
    for _ in range(60):
        policy.record_tail(extend(chain([1, 2, 3]), [4, 5], 3), 3)
        policy.record_tail(extend(chain([1, 2, 3]), [4, 5, 6, 7], 8), 7)
    policy._revise()
    assert policy.plan.extended[3] == 0
    assert policy.plan.extended[8] > 8


def _play(
    policy: Policy,
    rounds: int,
    *,
    blocks: tuple[int, float] | None = None,
    copies: dict[int, float] | None = None,
    every: int = 1,
    node: float = 0.15,
    surprise: float = 0.0,
) -> float:
    """Rounds where plain decoding takes a second a token, blocks draw so many tokens in so many
    seconds, and a copied token is right with the probability of its match, which there is every so
    many rounds -> share of the time that plain decoding alone would have taken."""
    rng = random.Random(rounds)
    spent = drawn = 0.0
    for number in range(rounds):
        size = rng.choice(list(copies)) if copies and number % every == 0 else 0
        right = 0
        while size and rng.random() < copies[size] and right < 60:
            right += 1
        plan, tokens, seconds = policy.plan, 1, 1.0
        if length := plan.copied[size] if plan.copied else 0:
            tokens, seconds = 1 + min(right, length), 1.0 + node * length
            policy.costs.record(1 + length, seconds, 0, 0.0)
            policy.record(tokens, seconds, steps=0, nodes=1 + length)
        elif plan.blocks is not None and blocks is not None:
            tokens, seconds = blocks
            policy.record(tokens, seconds, steps=1, nodes=2)
        else:
            policy.costs.record(1, 1.0, 0, 0.0)
            policy.record_plain(1.0)
        policy.text.note(size, [1] * 63, [int(i < right) for i in range(tokens)])
        policy.text.draw([-surprise] * tokens)
        spent, drawn = spent + seconds, drawn + tokens
    return spent / drawn


def test_the_policy_takes_what_pays() -> None:
    assert _play(Policy(True), 400, blocks=(3, 1.5), copies={4: 0.1}) < 0.55
    assert _play(Policy(False), 400, copies={4: 0.9}) < 0.42


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("surprise", [0.0, 4.0])
def test_the_policy_hardly_loses_where_nothing_pays(every: int, surprise: float) -> None:
    copies = {2: 0.02, 5: 0.1, 8: 0.05}
    options = {"blocks": (1, 2.0), "copies": copies, "every": every, "surprise": surprise}
    assert _play(Policy(True), 2000, **options) < 1.015


def test_a_bad_source_does_not_keep_a_good_one_from_being_used() -> None:
    copies = {2: 0.02, 6: 0.85}
    assert _play(Policy(True), 2000, blocks=(1, 2.0), copies=copies) < 0.7


def test_the_policy_follows_a_change() -> None:
    policy = Policy(True)
    _play(policy, 300, blocks=(1, 1.5), copies={3: 0.05})
    assert _play(policy, 1500, blocks=(4, 1.5), copies={3: 0.05}) < 0.75


def test_hard_text_does_not_speak_for_easy_text() -> None:
    """What blocks lose where the model is unsure is not held against them where it is sure."""
    policy = Policy(True)
    _play(policy, 1000, blocks=(1, 2.0), surprise=4.0)
    assert _play(policy, 60, blocks=(3, 1.5), surprise=0.1) < 0.75


def test_what_copying_would_bring_is_learnt_without_copying() -> None:
    policy = Policy(False)
    for _ in range(40):
        policy.record_plain(1.0)
        policy.text.note(5, [7, 8, 9], [7])
        policy.text.note(3, [7, 8, 9], [1])
    assert policy.text.first[5] > 0.95
    assert policy.text.first[3] < 0.05
    policy._revise()
    assert policy.plan.copied[5] > 2
    assert policy.plan.copied[3] == 0


def test_costs_are_those_of_the_passes() -> None:
    costs = Costs()
    for nodes in (1, 4, 9, 2, 16, 1, 1, 5):
        costs.record(nodes, 50.0 + 3 * nodes, 2 if nodes > 1 else 0, 14.0)
    assert costs.node == pytest.approx(3)
    assert costs.step == pytest.approx(7)


def test_bounds_follow_from_costs() -> None:
    """With nodes that cost half a token's time, improbable drafts are left out."""
    policy = Policy(True)
    _play(policy, 10)
    for nodes in (1, 2, 3, 4):
        policy.costs.record(nodes, 0.5 + 0.5 * nodes, 1, 0.2)
    policy._revise()
    shape = policy.plan.blocks
    assert math.exp(shape.least_node) == pytest.approx(0.5)
    assert math.exp(shape.least_step) == pytest.approx(0.7)


def test_nodes_are_worth_while_as_long_as_they_are_likely() -> None:
    nodes, tokens = _C.TextRecord.worthwhile(first=0.8, after=0.8, value=1.0, node=0.5)
    assert (nodes, tokens) == (3, pytest.approx(0.8 + 0.64 + 0.512))
    assert _C.TextRecord.worthwhile(first=0.4, after=1.0, value=1.0, node=0.5) == (0, 0.0)
    assert _C.TextRecord.worthwhile(first=1.0, after=1.0, value=1.0, node=0.0)[0] == 32


@pytest.mark.parametrize(("rows", "copies"), [(1, True), (4, False)])
def test_a_node_must_pay_in_a_batch_too(rows: int, copies: bool) -> None:
    """Where rows share a pass, a token is worth less of it, and a node costs as much."""
    policy = Policy(False, rows)
    for i in range(60):
        policy.costs.record(rows + i % 2, 1.0 + 0.15 * (i % 2), 0, 0.0)
        policy.text.note(5, [1], [int(i % 2 == 0)])
        policy.record_plain(1.0)
    policy._revise()
    assert bool(policy.plan.copied) == copies
