"""Where drafts come from: copied text, the choice of a tree, and the policy."""

import math
import random

import pytest

from mimo_native import _C
from mimo_native.inference.speculation.draft import TreeShape, best_first, chain, extend, merge
from mimo_native.inference.speculation.ngram import NGrams
from mimo_native.inference.speculation.policy import BLOCKS, PLAIN, Costs, Policy


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
    policy: Policy, rounds: int, costs: dict[int, tuple[float, float]], *, every: int = 1
) -> float:
    """Rounds at fixed tokens and seconds per arm, copies turning up every so many rounds -> share
    of the time that plain decoding alone would have taken."""
    spent = drawn = 0.0
    for number in range(rounds):
        arm = PLAIN
        if policy.plan.blocks is not None and BLOCKS in costs:
            arm = BLOCKS
        if number % every == 0:
            arm = next((s for s, n in enumerate(policy.plan.copied) if n and s in costs), arm)
        tokens, seconds = costs[arm]
        if arm == PLAIN:
            policy.record_plain(seconds)
        else:
            policy.record(arm, tokens, seconds, 3)
        spent, drawn = spent + seconds, drawn + tokens
    return spent / (drawn * costs[PLAIN][1])


def test_the_policy_takes_what_pays() -> None:
    costs = {PLAIN: (1, 1.0), BLOCKS: (3, 1.5), 4: (1.1, 1.2)}
    assert _play(Policy(True), 400, costs) < 0.55
    assert _play(Policy(False), 400, {PLAIN: (1, 1.0), 4: (4, 1.5)}) < 0.42


@pytest.mark.parametrize("every", [1, 7])
def test_the_policy_hardly_loses_where_nothing_pays(every: int) -> None:
    costs = {PLAIN: (1, 1.0), BLOCKS: (1, 2.0), 2: (1, 1.5), 5: (1.2, 1.5), 8: (1, 3.0)}
    assert _play(Policy(True), 2000, costs, every=every) < 1.015


def test_a_bad_arm_does_not_keep_a_good_one_from_being_used() -> None:
    costs = {PLAIN: (1, 1.0), BLOCKS: (1, 2.0), 2: (1, 1.5), 6: (5, 1.5)}
    assert _play(Policy(True), 2000, costs, every=2) < 0.6


def test_the_policy_follows_a_change() -> None:
    policy = Policy(True)
    _play(policy, 300, {PLAIN: (1, 1.0), BLOCKS: (1, 1.5)})
    assert _play(policy, 1500, {PLAIN: (1, 1.0), BLOCKS: (4, 1.5)}) < 0.75


def test_costs_are_those_of_the_passes() -> None:
    costs = Costs()
    for nodes in (1, 4, 9, 2, 16, 1, 1, 5):
        costs.record(nodes, 50.0 + 3 * nodes, 2 if nodes > 1 else 0, 14.0)
    assert costs.node == pytest.approx(3)
    assert costs.step == pytest.approx(7)


def test_bounds_follow_from_costs() -> None:
    """With nodes that cost half a token's time, improbable drafts are left out."""
    policy = Policy(True)
    _play(policy, 10, {PLAIN: (1, 1.0)})
    for nodes in (1, 2, 3, 4):
        policy.costs.record(nodes, 0.5 + 0.5 * nodes, 1, 0.2)
    policy._revise()
    shape = policy.plan.blocks
    assert math.exp(shape.least_node) == pytest.approx(0.5)
    assert math.exp(shape.least_step) == pytest.approx(0.7)
    assert policy.plan.copied[5] == 3  # 0.8 ** 3 > 0.5 > 0.8 ** 4
