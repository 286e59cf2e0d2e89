"""A training step runs on the kernels alone; its gradients are the float64 reference's."""

import copy

import pytest
import torch

import mimo_native as mn
from mimo_native import reference
from mimo_native.pretrain import Objective, Totals, Weights

from .models import hub_gradients, micro_batch, random_model, random_rows, tiny

LENGTHS = [[5, 3, 1, 13, 40, 2], [64]]


def gradients(model: mn.MiMoForCausalLM, *, recompute: bool) -> tuple[float, dict]:
    batch = micro_batch(random_rows(LENGTHS))
    totals = Totals.of(Totals.count([batch], model.config.num_mtp_layers))
    losses = Objective(model, recompute=recompute)(batch, totals, Weights(0.3, 0.01))
    losses.loss.backward()
    return float(losses.loss.detach()), {n: g for n, g in hub_gradients(model) if g is not None}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_against_the_reference(
    dtype: torch.dtype, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tiny(), dtype=dtype)
    exact = copy.deepcopy(model).double()
    with mn.backends.use("reference"):
        want_loss, want = gradients(exact, recompute=recompute)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the reference was called")

    with monkeypatch.context() as patch:
        for name in reference.__all__:
            patch.setattr(reference, name, refuse)
        loss, got = gradients(model, recompute=recompute)

    single = dtype == torch.float32
    assert loss == pytest.approx(want_loss, rel=1e-5 if single else 2e-2)
    assert got.keys() == want.keys()
    inner = norm = other = 0.0
    for name, g in got.items():
        if single:
            scale = max(1e-3, float(want[name].abs().max()))
            assert float((g.double() - want[name]).abs().max()) <= 2e-4 * scale, name
        inner += float((g.double() * want[name]).sum())
        norm += float(g.double().square().sum())
        other += float(want[name].square().sum())
    # One token routed otherwise moves single elements of bfloat16 gradients, not their direction.
    assert inner / (norm * other) ** 0.5 > (1 - 1e-6 if single else 0.98)


def test_float64_is_refused_without_the_reference() -> None:
    with pytest.raises(mn.UnsupportedError, match="float64"):
        gradients(random_model(tiny()), recompute=False)
