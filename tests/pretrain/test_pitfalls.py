"""Mistakes that others shipped in multi-token prediction and balancing; each must fail loudly."""

import numpy as np
import pytest
import torch

import mimo_native as mn
from mimo_native.nn import Routing
from mimo_native.pretrain import Boundary, Losses, Objective, Totals, Weights, expand_mtp
from mimo_native.training.balance import routers, sequence_balance_loss, update_bias
from mimo_native.training.batch import MicroBatch, micro_batches
from mimo_native.training.data import Row
from mimo_native.training.forward import packed, trunk

from .models import Documents, micro_batch, random_model, random_rows, tiny

HEADS = 3


@pytest.fixture(scope="module")
def model() -> mn.MiMoForCausalLM:
    return random_model(tiny())


def run(
    model: mn.MiMoForCausalLM,
    rows: list[Documents],
    *,
    weights: Weights | None = None,
    batches: list[MicroBatch] | None = None,
    **options: object,
) -> list[Losses]:
    """Losses per micro-batch, all rows in one by default; gradients are left in the model."""
    batches = batches or [micro_batch(rows)]
    totals = Totals.of(Totals.count(batches, model.config.num_mtp_layers))
    objective = Objective(model, **options)
    out = []
    model.zero_grad()
    with mn.backends.use("reference"):
        for batch in batches:
            out.append(objective(batch, totals, weights or Weights(0.3, 0.01)))
            out[-1].loss.backward()
    return out


def test_the_last_tokens_of_a_document_have_no_target(model: mn.MiMoForCausalLM) -> None:
    """Head k has L - k - 2 targets in a document of L tokens, never a padding id in their place."""
    batch = micro_batch(random_rows([[9, 4, 2, 1]]))
    totals = Totals.of(Totals.count([batch], HEADS))
    assert totals.main == 8 + 3 + 1
    assert totals.mtp == (7 + 2, 6 + 1, 5)


def test_packed_documents_do_not_see_each_other(model: mn.MiMoForCausalLM) -> None:
    """Losses of packed rows are those of each document alone, for every head."""
    rows = random_rows([[7, 12, 5]])
    together = run(model, rows)[0]
    alone = [run(model, [[document]])[0] for document in rows[0]]
    torch.testing.assert_close(together.main, sum(one.main for one in alone))
    torch.testing.assert_close(together.mtp, sum(one.mtp for one in alone))


def test_another_document_changes_nothing(model: mn.MiMoForCausalLM) -> None:
    rows = random_rows([[7, 12]])
    batch = micro_batch(rows)
    hidden = []
    for other in (rows[0][1], [1] * 12):
        ids = torch.tensor(rows[0][0] + other)
        with mn.backends.use("reference"):
            hidden.append(trunk(model, ids, packed(batch.cu_seqlens)).hidden[:7])
    torch.testing.assert_close(*hidden, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lengths", [[1, 1, 1], [2, 2], [3, 1], [4]])
def test_a_batch_without_targets_gives_zero_not_nan(
    model: mn.MiMoForCausalLM, lengths: list[int]
) -> None:
    losses = run(model, random_rows([lengths]))[0]
    assert bool(torch.isfinite(losses.loss))
    for k in range(HEADS):
        expected = any(n >= k + 3 for n in lengths)
        assert bool(losses.mtp[k] > 0) == expected
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_loss_is_a_mean_over_its_own_targets(model: mn.MiMoForCausalLM) -> None:
    """Twice the rows: the same loss, not twice; and each head divides by its own count."""
    rows = random_rows([[11, 2]])
    once, twice = run(model, rows)[0], run(model, rows * 2)[0]
    torch.testing.assert_close(once.loss, twice.loss)
    totals = Totals.of(Totals.count([micro_batch(rows)], HEADS))
    want = once.main / totals.main + 0.01 * once.aux
    want = want + 0.1 * sum(once.mtp[k] / totals.mtp[k] for k in range(HEADS))
    torch.testing.assert_close(once.loss.detach(), want)


def test_micro_batches_of_unequal_targets_weigh_by_targets(model: mn.MiMoForCausalLM) -> None:
    """A mean of micro-batch means would weigh the short one's tokens more."""
    rows = random_rows([[16], [1] * 14 + [2]])
    whole = run(model, rows)[0].loss
    parts = run(model, rows, batches=[micro_batch(rows[:1]), micro_batch(rows[1:])])
    torch.testing.assert_close(whole, sum(part.loss for part in parts))


def test_a_rank_without_rows_counts_for_nothing(model: mn.MiMoForCausalLM) -> None:
    """It runs a stand-in, so that collectives match: no target, no loss, no load, no gradient."""
    ids = np.arange(16, dtype=np.int64)
    batches = [
        micro_batches([Row(ids, (9, 7), "c")], micro_rows=1, vocab_size=256, rank=r, world=2)
        for r in range(2)
    ]
    assert [len(mine) for mine in batches] == [1, 1]
    assert int(Totals.count(batches[0], HEADS).sum()) > 0
    assert not Totals.count(batches[1], HEADS).any()
    losses = run(model, [], batches=batches[1])[0]
    assert not any(bool(part.any()) for part in losses)
    reached = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(reached) == len(list(model.parameters()))
    assert not any(bool(grad.any()) for grad in reached)


def test_what_gets_logged_holds_no_graph(model: mn.MiMoForCausalLM) -> None:
    """A sum of losses kept over the steps would keep every step's activations."""
    losses = run(model, random_rows([[12]]))[0]
    assert [part.requires_grad for part in losses] == [True, False, False, False, False]


def trained_by_mtp_alone(model: mn.MiMoForCausalLM, boundary: Boundary) -> set[str]:
    """Parameters that the MTP loss reaches: those whose gradient its weight changes."""
    rows = random_rows([[12]])
    grads = []
    for weight in (0.0, 0.3):
        run(model, rows, weights=Weights(weight, 0.0), boundary=boundary)
        grads.append({n: p.grad.clone() for n, p in model.named_parameters()})
    return {n for n in grads[0] if not torch.equal(grads[0][n], grads[1][n])}


def test_detached_heads_leak_nothing_into_the_main_model(model: mn.MiMoForCausalLM) -> None:
    """An untied head still moved by the MTP loss shifts the policy."""
    reached = trained_by_mtp_alone(model, Boundary.detached())
    assert reached
    assert all(name.startswith("model.mtp.") for name in reached)


@pytest.mark.parametrize(
    ("boundary", "untouched"),
    [
        (Boundary(hidden=True), "model.layers.0.self_attn.qkv.weight"),
        (Boundary(head=True), "head.weight"),
        (Boundary(hidden=True, embedding=True), "model.embed_tokens.weight"),
    ],
    ids=["hidden", "head", "embedding"],
)
def test_each_part_of_the_boundary(
    model: mn.MiMoForCausalLM, boundary: Boundary, untouched: str
) -> None:
    assert untouched in trained_by_mtp_alone(model, Boundary())
    assert untouched not in trained_by_mtp_alone(model, boundary)


def test_every_head_is_trained_behind_the_boundary(model: mn.MiMoForCausalLM) -> None:
    """Detaching between heads as well would starve the later ones."""
    run(model, random_rows([[12]]), boundary=Boundary.detached())
    for k in range(HEADS):
        for name, parameter in model.model.mtp.layers[k].named_parameters():
            assert bool(parameter.grad.any()), (k, name)


def test_heads_take_the_main_hidden_state(model: mn.MiMoForCausalLM) -> None:
    """Not the previous head's: head 1's loss does not depend on block 0's weights."""
    run(model, random_rows([[12]]))
    rows = random_rows([[12]])
    before = run(model, rows)[0].mtp
    with torch.no_grad():
        model.model.mtp.layers[0].mlp.down.weight.mul_(3.0)
    after = run(model, rows)[0].mtp
    with torch.no_grad():
        model.model.mtp.layers[0].mlp.down.weight.div_(3.0)
    assert before[0] != after[0]
    assert torch.equal(before[1:], after[1:])


def test_recomputation_counts_no_expert_twice(model: mn.MiMoForCausalLM) -> None:
    rows = random_rows([[12], [7, 5]])
    plain, again = run(model, rows)[0], run(model, rows, recompute=True)[0]
    assert torch.equal(plain.counts, again.counts)
    assert int(plain.counts.sum()) == 24 * model.config.num_experts_per_tok * 6
    assert torch.equal(plain.loss, again.loss)


def test_recomputation_keeps_the_packing(model: mn.MiMoForCausalLM) -> None:
    """A wrapper that drops cu_seqlens in the second forward corrupts the gradients silently."""
    rows = random_rows([[3, 9, 1, 6]])
    run(model, rows)
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    run(model, rows, recompute=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, plain[name]), name


def test_mtp_tokens_load_no_expert() -> None:
    """The counts are the trunk's, with heads or without."""
    rows, model = random_rows([[12]]), random_model(tiny())
    with_heads = run(model, rows)[0].counts
    model.model.mtp.layers = torch.nn.ModuleList()
    model.config = tiny(num_mtp_layers=0)
    assert torch.equal(run(model, rows)[0].counts, with_heads)


def test_bias_moves_towards_the_mean_load(model: mn.MiMoForCausalLM) -> None:
    before = [r.e_score_correction_bias.clone() for r in routers(model)]
    counts = torch.zeros(6, 16, dtype=torch.int64)
    counts[0, :4] = torch.tensor([40, 4, 4, 16])  # mean 4 over 16 experts
    update_bias(model, counts, 0.5)
    moved = [
        (r.e_score_correction_bias - b).float() for r, b in zip(routers(model), before, strict=True)
    ]
    want = torch.full((16,), 0.5)
    want[:4] = torch.tensor([-0.5, 0.0, 0.0, -0.5])
    torch.testing.assert_close(moved[0], want)
    assert not any(bool(delta.any()) for delta in moved[1:])
    for router, b in zip(routers(model), before, strict=True):
        router.e_score_correction_bias.copy_(b)


def test_bias_is_state_without_gradient_or_decay(model: mn.MiMoForCausalLM) -> None:
    names = {name for name, _ in model.named_parameters()}
    assert not any("correction_bias" in name for name in names)
    saved = [name for name in model.state_dict() if "correction_bias" in name]
    assert len(saved) == 6
    narrow = random_model(tiny(), dtype=torch.bfloat16)
    assert {r.e_score_correction_bias.dtype for r in routers(narrow)} == {torch.float32}


def test_balance_loss_is_per_sequence(model: mn.MiMoForCausalLM) -> None:
    """Two sequences that each use their own half of the experts are both out of balance."""
    ids = torch.tensor([[0, 1]] * 4 + [[2, 3]] * 4, dtype=torch.int32)
    logits = torch.full((8, 4), -4.0, dtype=torch.float64)
    logits.scatter_(1, ids.long(), 4.0)
    split = sequence_balance_loss([Routing(ids, logits)], rows=2) / 2
    whole = sequence_balance_loss([Routing(ids, logits)], rows=1)
    assert float(whole) == pytest.approx(1.0)
    assert float(split) == pytest.approx(2.0, rel=0.02)


class TestExpansion:
    def test_copies_are_equal_and_separate(self) -> None:
        model = random_model(tiny(num_mtp_layers=1))
        before = model.state_dict()
        expand_mtp(model, 3)
        after = model.state_dict()
        assert model.config.num_mtp_layers == 3
        assert before.keys() < after.keys()
        for name in after:
            if name.startswith("model.mtp."):
                first = name.replace(".layers.1.", ".layers.0.").replace(".layers.2.", ".layers.0.")
                assert torch.equal(after[name], before[first])
                assert name == first or after[name].data_ptr() != after[first].data_ptr()

    def test_heads_part_once_trained(self) -> None:
        model = random_model(tiny(num_mtp_layers=1))
        expand_mtp(model, 3)
        run(model, random_rows([[12]]))
        grads = [block.eh.weight.grad for block in model.model.mtp.layers]
        assert not torch.equal(grads[0], grads[1])
        assert not torch.equal(grads[1], grads[2])

    @pytest.mark.parametrize(("heads", "wanted"), [(0, 3), (3, 2), (3, 0)])
    def test_refusals(self, heads: int, wanted: int) -> None:
        model = mn.MiMoForCausalLM(tiny(num_mtp_layers=heads))
        with pytest.raises(mn.ShapeError, match="expand_mtp: heads"):
            expand_mtp(model, wanted)
        assert model.config.num_mtp_layers == heads
