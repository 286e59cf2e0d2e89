"""Where drafts come from: copied text, the choice of a tree, and the policy."""

import random

from mimo_native import _C
from mimo_native.inference.speculation.draft import TreeShape, best_first, chain, merge
from mimo_native.inference.speculation.ngram import NGrams
from mimo_native.inference.speculation.policy import PLAIN, Policy


def _naive(tokens: list[int], length: int) -> list[int]:
    for size in (4, 3, 2):
        for at in range(len(tokens) - size - 1, -1, -1):
            if tokens[at : at + size] == tokens[-size:] and len(tokens) > size:
                return tokens[at + size : at + size + length]
    return []


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
            found += bool(expected)
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


def _play(policy: Policy, rounds: int, seconds: dict[str, float], tokens: dict[str, float]):
    """Rounds with fixed costs -> share of the time that plain decoding alone would have taken."""
    spent = drawn = 0.0
    for _ in range(rounds):
        arm = policy.choose([name for name in seconds if name != PLAIN])
        policy.record(arm, tokens[arm], seconds[arm])
        spent, drawn = spent + seconds[arm], drawn + tokens[arm]
    return spent / (drawn * seconds[PLAIN])


def test_the_policy_takes_what_pays() -> None:
    seconds, tokens = {PLAIN: 1.0, "tree": 1.5, "chain": 1.2}, {PLAIN: 1, "tree": 3, "chain": 1.1}
    assert _play(Policy(), 400, seconds, tokens) < 0.55


def test_the_policy_hardly_loses_where_nothing_pays() -> None:
    seconds, tokens = {PLAIN: 1.0, "tree": 2.0, "chain": 1.5}, {PLAIN: 1, "tree": 1, "chain": 1}
    assert _play(Policy(), 2000, seconds, tokens) < 1.02


def test_the_policy_follows_a_change() -> None:
    policy = Policy()
    seconds = {PLAIN: 1.0, "tree": 1.5}
    _play(policy, 300, seconds, {PLAIN: 1, "tree": 1})
    assert _play(policy, 1500, seconds, {PLAIN: 1, "tree": 4}) < 0.7
