"""Muon against singular values in float64, matrix by matrix."""

import math

import pytest
import torch
from torch import Tensor, nn

import mimo_native as mn
from mimo_native.training import Optimizer, OptimizerConfig
from mimo_native.training.muon import hidden_matrices, orthogonalize

SHAPES = {
    "qkv": ((4, 2, 3), (9, 5)),  # rows of each matrix, and the parameter
    "tall": ((7,), (7, 3)),
    "experts": ((2, 2), (3, 4, 6)),
}


def pressed(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps are one polynomial of each singular value."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 3), (2, 7), (7, 2), (4, 5, 3), (1, 6)], ids=str)
def test_orthogonalized(shape: tuple[int, ...]) -> None:
    matrices = draw(*shape, seed=0)
    got = orthogonalize(matrices)
    want = torch.stack([pressed(m) for m in matrices.reshape(-1, *shape[-2:])])
    torch.testing.assert_close(got.reshape_as(want), want, rtol=1e-9, atol=1e-11)
    assert not orthogonalize(torch.zeros(shape)).any()


def test_equals_the_formula() -> None:
    """Every part of a fused weight and every expert is a matrix of its own; the rest is AdamW."""
    params = {n: nn.Parameter(draw(*s, seed=i)) for i, (n, (_, s)) in enumerate(SHAPES.items())}
    other = nn.Parameter(draw(5, 4, seed=9))
    alone = nn.Parameter(other.detach().clone())
    config = OptimizerConfig(kind="muon", momentum=0.8, clip=None)
    rows = {n: r for n, (r, _) in SHAPES.items()}
    muon = Optimizer([*params.items(), ("head", other)], config, matrices=rows)
    adamw = Optimizer([("head", alone)], OptimizerConfig(clip=None))
    want = {n: p.detach().clone() for n, p in params.items()}
    momentum = {n: torch.zeros_like(p) for n, p in want.items()}
    for t, lr in enumerate([1e-2, 3e-2, 5e-3]):
        for i, (n, p) in enumerate(params.items()):
            g = draw(*p.shape, seed=100 + 10 * t + i)
            p.grad = g.clone()
            momentum[n] = 0.8 * momentum[n] + g
            update = (g + 0.8 * momentum[n]).reshape(-1, *p.shape[-2:])
            target = want[n].view_as(update)
            for e in range(len(update)):
                first = 0
                for height in rows[n]:
                    part = slice(first, first := first + height)
                    scale = 0.2 * math.sqrt(max(height, p.shape[-1]))
                    target[e, part] *= 1 - lr * 0.1
                    target[e, part] -= lr * scale * pressed(update[e, part])
        other.grad = draw(5, 4, seed=200 + t)
        alone.grad = other.grad.clone()
        muon.step(lr)
        adamw.step(lr)
        for n, p in params.items():
            torch.testing.assert_close(p.detach(), want[n], rtol=1e-9, atol=1e-11)
        assert torch.equal(other, alone)
    state = muon.tensors()
    assert {n for n in state if n.startswith("momentum.")} == {f"momentum.{n}" for n in SHAPES}
    assert not any(n.endswith(tuple(SHAPES)) and n.startswith("exp_avg") for n in state)


def test_matrices_of_a_model() -> None:
    """All inside the layers but the router; their rows are those of the checkpoint's tensors."""
    model = mn.MiMoForCausalLM(mn.MiMoConfig.tiny())
    found = hidden_matrices(model)
    parameters = dict(model.named_parameters())
    assert {n for n, p in parameters.items() if p.ndim > 1} - set(found) == {
        "model.embed_tokens.weight",
        "head.weight",
        *(n for n in parameters if n.endswith("mlp.gate.proj.weight")),
    }
    assert all(sum(rows) == parameters[name].shape[-2] for name, rows in found.items())
    assert sum(len(rows) == 3 for rows in found.values()) == len(model.model.layers) + 3


@pytest.mark.parametrize("wrong", [{"kind": "sgd"}, {"momentum": 1.0}], ids=str)
def test_bad_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(mn.ShapeError, match="OptimizerConfig: kind, momentum"):
        OptimizerConfig(**wrong)
