"""Gradients of the SwiGLU layers: float64 with propagated bounds, fixed bits, empty experts."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from mimo_native import reference
from mimo_native.ops import expert_mlp, pack, swiglu, swiglu_mlp

from ..case import FLOATS
from ..tolerance import assert_close_bound, noise_bound, rounding_bound, sum_bound
from .cases import C_SILU, C, ExpertMlpCase, swiglu_error

FORMAT = {torch.float32: "f32", torch.bfloat16: "bf16"}
CASES = [
    ExpertMlpCase(tokens=n, width=d, ffn=f, experts=e, slots=k, routing=routing, dtype=t)
    for n, d, f, e, k, routing in (
        (1, 32, 16, 4, 2, "uniform"),
        (3, 33, 17, 5, 3, "uniform"),
        (17, 96, 40, 16, 4, "uniform"),
        (64, 48, 32, 40, 8, "uniform"),
        (130, 32, 48, 6, 2, "hot"),
        (150, 32, 48, 6, 2, "one"),
        (40, 70, 33, 30, 3, "few"),
        (90, 48, 32, 20, 4, "zipf"),
        (100, 40, 32, 64, 8, "recorded"),
    )
    for t in FLOATS
] + [
    ExpertMlpCase(tokens=20, width=64, ffn=48, experts=8, slots=3, data=data, dtype=t)
    for data in ("huge", "denormal", "zeros")
    for t in FLOATS
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def differentiable(args: dict[str, object]) -> dict[str, Tensor]:
    names = [n for n in ("x", "w_gate_up", "w_down", "weights") if n in args]
    return {n: args[n].detach().requires_grad_() for n in names}


def gradients(op, args: dict[str, object], dy: Tensor) -> dict[str, Tensor]:
    inputs = differentiable(args)
    y = op(**{**args, **inputs})
    return dict(zip(inputs, torch.autograd.grad(y, [*inputs.values()], dy), strict=True))


def bounds(args: dict[str, Tensor], dy: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Error of every gradient before its own rounding, all in float64.

    Kept values (gate, up, their gradients, the weighted activations) carry a rounding to ``dtype``;
    |silu'| <= 1.1 and |silu''| <= 0.5.
    """
    x, ids = args["x"], args["ids"]
    out = {name: torch.zeros_like(value) for name, value in args.items() if name != "ids"}
    for expert in ids.unique().tolist():
        token, slot = (ids == expert).nonzero(as_tuple=True)
        w_gu, w_down = args["w_gate_up"][expert], args["w_down"][expert]
        weight = args["weights"][token, slot, None]
        rows, dy_r = x[token], dy[token]
        gate_up = rows @ w_gu.T
        kept = sum_bound(rows.abs() @ w_gu.abs().T, rows.shape[-1], c=C)
        kept = rounding_bound(gate_up, kept, dtype)
        (gate, up), (e_gate, e_up) = gate_up.chunk(2, -1), kept.chunk(2, -1)
        h, e_h = silu(gate) * up, swiglu_error(gate, up, e_gate, e_up)
        q = dy_r @ w_down
        e_q = sum_bound(dy_r.abs() @ w_down.abs(), dy.shape[-1], c=C)
        dh, e_dh = (weight * q).abs(), weight.abs() * e_q + C_SILU * 2**-24 * (weight * q).abs()
        d_up = weight * q * silu(gate)
        e_d_up = e_dh * silu(gate).abs() + (dh + e_dh) * 1.1 * e_gate
        d_gate = weight * q * up * torch.sigmoid(gate) * (1 + gate * (1 - torch.sigmoid(gate)))
        e_d_gate = 1.1 * (e_dh * up.abs() + (dh + e_dh) * e_up)
        e_d_gate = e_d_gate + (dh + e_dh) * (up.abs() + e_up) * (0.5 * e_gate + C_SILU * 2**-24)
        d = torch.cat([d_gate, d_up], -1)
        e_d = rounding_bound(d, torch.cat([e_d_gate, e_d_up], -1), dtype)

        e_dx = noise_bound(e_d, w_gu.T) + sum_bound(d.abs() @ w_gu.abs(), w_gu.shape[0], c=C)
        out["x"].index_add_(0, token, e_dx + C * 2**-24 * (d @ w_gu).abs())
        out["w_gate_up"][expert] = e_d.T @ rows.abs()
        out["w_gate_up"][expert] += sum_bound(d.abs().T @ rows.abs(), len(token), c=C)
        scaled, e_scaled = weight * h, rounding_bound(weight * h, weight.abs() * e_h, dtype)
        out["w_down"][expert] = dy_r.abs().T @ e_scaled
        out["w_down"][expert] += sum_bound(dy_r.abs().T @ scaled.abs(), len(token), c=C)
        dots = (e_q * (h.abs() + e_h) + q.abs() * e_h).sum(-1)
        dots = dots + sum_bound((q * h).abs().sum(-1), h.shape[-1], c=C)
        out["weights"][token, slot] = dots
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_experts_against_float64(isa: str, case: ExpertMlpCase) -> None:
    args = case.make()
    dy = torch.randn(case.tokens, case.width, generator=torch.Generator().manual_seed(9))
    dy = dy.to(case.dtype)
    got = gradients(expert_mlp, args, dy)
    wide = {n: t.double() if t.is_floating_point() else t for n, t in args.items()}
    want = gradients(reference.expert_mlp, wide, dy.double())
    error = bounds(wide, dy.double(), case.dtype)
    for name, grad in got.items():
        dtype = torch.float32 if name == "weights" else case.dtype
        assert grad.dtype == args[name].dtype
        assert_close_bound(grad, want[name], rounding_bound(want[name], error[name], dtype), name)
    idle = [e for e in range(case.experts) if not (args["ids"] == e).any()]
    assert not got["w_gate_up"][idle].any()
    assert not got["w_down"][idle].any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_dense_layer_is_one_expert_with_weight_one(isa: str, dtype: torch.dtype) -> None:
    args = ExpertMlpCase(tokens=18, width=40, ffn=24, experts=1, slots=1, dtype=dtype).make()
    args["weights"] = torch.ones(18, 1)
    dy = torch.randn(18, 40).to(dtype)
    want = gradients(expert_mlp, args, dy)
    dense = {"x": args["x"].reshape(3, 6, 40)}
    dense |= {name: args[name][0] for name in ("w_gate_up", "w_down")}
    got = gradients(swiglu_mlp, dense, dy.reshape(3, 6, 40))
    for name, grad in got.items():
        assert grad.equal(want[name].reshape(grad.shape)), name


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_fixed_bits(isa: str, dtype: torch.dtype) -> None:
    args = ExpertMlpCase(tokens=60, width=64, ffn=48, experts=6, slots=3, dtype=dtype).make()
    dy = torch.randn(60, 64).to(dtype)
    want = gradients(expert_mlp, args, dy)
    torch.set_num_threads(2)
    for name, grad in gradients(expert_mlp, args, dy).items():
        assert grad.equal(want[name]), name
    some = slice(20, 33)
    part = {**args, **{n: args[n][some].contiguous() for n in ("x", "ids", "weights")}}
    got = gradients(expert_mlp, part, dy[some])
    assert got["x"].equal(want["x"][some])
    assert got["weights"].equal(want["weights"][some])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("std", [1.0, 30.0])
def test_swiglu(isa: str, std: float, dtype: torch.dtype) -> None:
    gate_up = (std * torch.randn(3, 5, 2 * 33)).to(dtype).requires_grad_()
    dy = torch.randn(3, 5, 33).to(dtype)
    (got,) = torch.autograd.grad(swiglu(gate_up), gate_up, dy)
    wide = gate_up.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(reference.swiglu(wide), wide, dy.double())
    gate, up = wide.detach().chunk(2, -1)
    scale = dy.double().abs().repeat(1, 1, 2) * torch.cat(
        [up.abs() * (1 + gate.abs()), gate.abs()], -1
    )
    error = C_SILU * 2**-24 * scale
    assert_close_bound(got, want, rounding_bound(want, error, dtype))


def test_only_what_is_needed() -> None:
    args = ExpertMlpCase(tokens=5, width=16, ffn=8, experts=3, slots=2).make()
    dy = torch.randn(5, 16)
    want = gradients(expert_mlp, args, dy)
    for name in want:
        one = {**args, name: args[name].detach().requires_grad_()}
        (got,) = torch.autograd.grad(expert_mlp(**one), one[name], dy)
        assert got.equal(want[name]), name
    packed = {n: pack(args[n], format="f32") for n in ("w_gate_up", "w_down")}
    x = args["x"].requires_grad_()
    (got,) = torch.autograd.grad(expert_mlp(**{**args, **packed, "x": x}), x, dy)
    assert got.equal(want["x"])


@pytest.mark.parametrize("tokens", [0, 1])
def test_edges_of_the_number_of_tokens(tokens: int) -> None:
    args = ExpertMlpCase(tokens=tokens, width=16, ffn=8, experts=3, slots=2).make()
    got = gradients(expert_mlp, args, torch.ones(tokens, 16))
    assert got["w_gate_up"].any() == (tokens > 0)
    assert got["x"].shape == (tokens, 16)
    assert got["weights"].shape == (tokens, 2)
