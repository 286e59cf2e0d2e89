"""One step's loss and every gradient against the independent float64 implementation."""

from dataclasses import dataclass, field

import pytest
import torch

import mimo_native as mn
from mimo_native.pretrain import Boundary, Objective, Totals, Weights

from ..oracles.pretrain_float64 import PretrainOracle
from .models import hub_gradients, micro_batch, random_model, random_rows, tiny


@dataclass(frozen=True)
class Case:
    """Documents per row, the options of the objective, and how the rows are cut up."""

    lengths: tuple[tuple[int, ...], ...] = ((5, 3, 1, 13, 2), (24,))
    mtp_weight: float = 0.3
    aux: float = 0.01
    boundary: Boundary = field(default_factory=Boundary)
    mtp_only: bool = False
    recompute: bool = False
    distill: int = 0
    micro_rows: int = 2
    config: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return (
            "-".join(
                f"{name}={getattr(self, name)}"
                for name in self.__dataclass_fields__
                if getattr(self, name) != getattr(Case(), name)
            ).replace(" ", "")
            or "plain"
        )


CASES = [
    Case(),
    Case(lengths=((24,),), micro_rows=1),
    Case(lengths=((1,) * 12,), micro_rows=1),
    Case(lengths=((2, 1), (3,)), micro_rows=1),
    Case(mtp_weight=0.0),
    Case(aux=0.0),
    Case(aux=1.0),
    Case(boundary=Boundary(hidden=True)),
    Case(boundary=Boundary(embedding=True)),
    Case(boundary=Boundary(head=True)),
    Case(boundary=Boundary.detached()),
    Case(mtp_only=True),
    Case(mtp_only=True, recompute=True),
    Case(recompute=True),
    Case(micro_rows=1),
    Case(micro_rows=1, recompute=True),
    Case(distill=1),
    Case(distill=5),
    Case(distill=5, recompute=True, boundary=Boundary.detached()),
    Case(distill=3, mtp_only=True),
    Case(distill=2, lengths=((2, 1), (3,)), micro_rows=1),
    Case(distill=3, config=(("tie_word_embeddings", True),)),
    Case(config=(("num_mtp_layers", 0),)),
    Case(config=(("num_mtp_layers", 1),)),
    Case(config=(("tie_word_embeddings", True),)),
    Case(config=(("tie_word_embeddings", True),), boundary=Boundary(head=True)),
    Case(config=(("norm_topk_prob", False), ("routed_scaling_factor", 2.5))),
    Case(config=(("moe_layer_freq", (0,) * 7),)),
    Case(config=(("add_full_attention_sink_bias", True), ("window_keys", 3))),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradients(case: Case) -> None:
    config = tiny(**dict(case.config))
    model = random_model(config)
    rows = random_rows([list(row) for row in case.lengths])

    oracle = PretrainOracle(model.state_dict(), config)
    cut = case.boundary
    want = oracle.loss(
        rows,
        mtp_weight=case.mtp_weight,
        aux=case.aux,
        detach_hidden=cut.hidden,
        detach_embedding=cut.embedding,
        detach_head=cut.head,
        mtp_only=case.mtp_only,
        distill=case.distill,
    )
    if want.requires_grad:
        want.backward()

    model.requires_grad_(not case.mtp_only)
    model.model.mtp.requires_grad_(True)
    objective = Objective(
        model,
        boundary=cut,
        mtp_only=case.mtp_only,
        recompute=case.recompute,
        distill=case.distill,
    )
    batches = [
        micro_batch(rows[i : i + case.micro_rows]) for i in range(0, len(rows), case.micro_rows)
    ]
    totals = Totals.of(Totals.count(batches, config.num_mtp_layers))
    loss = 0.0
    with mn.backends.use("reference"):
        for batch in batches:
            losses = objective(batch, totals, Weights(case.mtp_weight, case.aux))
            losses.loss.backward()
            loss += float(losses.loss.detach())

    assert loss == pytest.approx(float(want.detach()), rel=1e-12, abs=1e-15)
    seen = 0
    for name, grad in hub_gradients(model):
        expected = oracle.t[name].grad
        trunk = not name.startswith("model.mtp.")
        if case.mtp_only and trunk:
            assert grad is None, name  # frozen, whatever the oracle's formula would give
            continue
        got = torch.zeros_like(oracle.t[name]) if grad is None else grad
        expected = torch.zeros_like(got) if expected is None else expected
        scale = max(1e-3, float(expected.abs().max()))
        assert float((got - expected).abs().max()) <= 1e-9 * scale, name
        seen += bool(expected.any())
    if any(n > 2 for row in case.lengths for n in row):
        assert seen > 15
