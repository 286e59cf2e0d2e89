"""AdamW against its formula in float64, masters, clipping and counting."""

import math

import pytest
import torch
from torch import nn

from mimo_native import ShapeError
from mimo_native.training import Optimizer, OptimizerConfig


def parameters(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (5, 3), "experts": (2, 3, 4), "norm": (6,), "sink": (2,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in shapes.items()
    }


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in parameters().items()
    }


def test_equals_the_formula() -> None:
    config = OptimizerConfig(clip=2.0)
    params = parameters()
    optimizer = Optimizer(params.items(), config)
    want = {name: p.detach().clone() for name, p in params.items()}
    m = {name: torch.zeros_like(p) for name, p in want.items()}
    v = {name: torch.zeros_like(p) for name, p in want.items()}
    for t, lr in enumerate([1e-2, 3e-2, 5e-3, 0.0], 1):
        grads = gradients(t)
        for name, p in params.items():
            p.grad = grads[name].clone()
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        stats = optimizer.step(lr)
        assert stats.grad_norm == pytest.approx(norm, rel=1e-12)
        for name, p in want.items():
            g = grads[name] * min(1.0, 2.0 / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.95 * v[name] + 0.05 * g * g
            if p.ndim > 1:
                p *= 1 - lr * 0.1
            p -= lr * (m[name] / (1 - 0.9**t)) / ((v[name] / (1 - 0.95**t)).sqrt() + 1e-8)
        for name, p in params.items():
            torch.testing.assert_close(p.detach(), want[name], rtol=1e-9, atol=1e-12)
            assert p.grad is None


def test_small_gradients_are_not_scaled_up() -> None:
    params = parameters()
    optimizer = Optimizer(params.items(), OptimizerConfig(clip=1e9))
    other = parameters()
    unclipped = Optimizer(other.items(), OptimizerConfig(clip=None))
    for set_ in (params, other):
        for name, g in gradients(1).items():
            set_[name].grad = g.clone()
    optimizer.step(0.1)
    unclipped.step(0.1)
    for name in params:
        assert torch.equal(params[name], other[name])


def test_bfloat16_parameters_follow_float32_masters() -> None:
    """Updates far below bfloat16's resolution add up all the same."""
    p = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = Optimizer([("w", p)], OptimizerConfig(weight_decay=0.0, clip=None))
    for _ in range(20):
        p.grad = torch.ones_like(p)
        optimizer.accumulate()
        optimizer.step(1e-3)
    assert optimizer.masters["w"].dtype == torch.float32
    torch.testing.assert_close(optimizer.masters["w"], torch.full((4, 4), 0.98), rtol=0, atol=1e-5)
    assert torch.equal(p.detach(), optimizer.masters["w"].to(torch.bfloat16))
    assert float(p.detach()[0, 0]) < 1.0


def test_bfloat16_gradients_accumulate_in_float32() -> None:
    p = nn.Parameter(torch.zeros(1, 1, dtype=torch.bfloat16))
    optimizer = Optimizer([("w", p)], OptimizerConfig())
    for value in [256.0] + [0.5] * 8:  # 256 + 0.5 is 256 in bfloat16
        p.grad = torch.full_like(p, value)
        optimizer.accumulate()
        assert p.grad is None
    assert float(optimizer.masters["w"].grad) == 260.0


def test_zeros_are_counted() -> None:
    params = parameters()
    optimizer = Optimizer(params.items(), OptimizerConfig())
    params["matrix"].grad = torch.ones(5, 3, dtype=torch.float64)
    params["experts"].grad = torch.zeros(2, 3, 4, dtype=torch.float64)
    params["experts"].grad[0] = 1.0
    stats = optimizer.norm()
    assert stats.size == 15 + 24 + 6 + 2
    assert stats.num_zeros == 12 + 6 + 2  # and a parameter without gradient counts whole


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_gradient_changes_nothing(bad: float) -> None:
    params = parameters()
    optimizer = Optimizer(params.items(), OptimizerConfig())
    before = {name: p.detach().clone() for name, p in params.items()}
    for p in params.values():
        p.grad = torch.full_like(p, bad)
    assert not math.isfinite(optimizer.step(0.1).grad_norm)
    for name, p in params.items():
        assert torch.equal(p, before[name])
    assert not optimizer.tensors()["exp_avg.matrix"].any()


def test_frozen_parameters_are_left_out() -> None:
    params = parameters()
    params["norm"].requires_grad_(False)
    optimizer = Optimizer(params.items(), OptimizerConfig())
    assert "exp_avg.norm" not in optimizer.tensors()
    with pytest.raises(ShapeError, match="at least one"):
        Optimizer([("norm", params["norm"])], OptimizerConfig())


@pytest.mark.parametrize("bad", [{"betas": (1.0, 0.9)}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ShapeError):
        OptimizerConfig(**bad)
