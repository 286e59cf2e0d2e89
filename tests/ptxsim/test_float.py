"""Floating-point instructions, comparisons and conversions against torch and numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from .snippet import run

DTYPES = {
    "f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e-3, 65504.0, 70000.0, 3e38, 1e-40, 6e-8,
           float("inf"), -float("inf"), float("nan")]  # fmt: skip


def operands(dtype: torch.dtype, seed: int, special: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(96, generator=generator, dtype=torch.float64) * 8
    values = torch.cat([torch.tensor(SPECIAL * 2, dtype=torch.float64), random])
    values = (values if special else random)[
        torch.randperm(values.numel() if special else 96, generator=generator)
    ]
    return values.to(dtype)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a, nan=12345.0), torch.nan_to_num(b, nan=12345.0))


EXACT: list[tuple[str, int, Callable[..., torch.Tensor]]] = [
    ("add", 2, lambda a, b: a + b),
    ("sub", 2, lambda a, b: a - b),
    ("mul", 2, lambda a, b: a * b),
    ("fma.rn", 3, lambda a, b, c: a.double() * b.double() + c.double()),
    ("neg", 1, lambda a: -a),
    ("abs", 1, lambda a: a.abs()),
    ("min", 2, torch.fmin),
    ("max", 2, torch.fmax),
    ("max.NaN", 2, torch.maximum),
]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("opcode", "arity", "formula"), EXACT, ids=[case[0] for case in EXACT])
def test_arithmetic_is_rounded_once(
    opcode: str, arity: int, formula: Callable[..., torch.Tensor], kind: str
) -> None:
    dtype = DTYPES[kind]
    if opcode == "fma.rn" and kind == "f64":
        pytest.skip("a double is too narrow to be its own oracle")
    inputs = [operands(dtype, seed) for seed in range(arity)]
    if opcode == "fma.rn" and kind == "f32":  # the double sum must be exact
        inputs = [operands(dtype, seed, special=False) for seed in range(arity)]
    output = torch.zeros_like(inputs[0])
    names = ", ".join(f"%in{k}" for k in range(arity))
    run(f"  {opcode}.{kind} %out, {names};", inputs, output)
    assert same(output, formula(*inputs).to(dtype))


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_halves(kind: str) -> None:
    a, b, c = (operands(DTYPES[kind], seed) for seed in range(3))
    output = torch.zeros_like(a)
    packed = [t.view(torch.int32) for t in (a, b, c)]
    run(f"  fma.rn.{kind}x2 %out, %in0, %in1, %in2;", packed, output.view(torch.int32))
    assert same(output, (a.double() * b.double() + c.double()).to(a.dtype))


APPROXIMATE = [
    ("sqrt.approx.f32", lambda a: a.abs().sqrt()),
    ("rsqrt.approx.f32", lambda a: a.abs().rsqrt()),
    ("rcp.approx.f32", lambda a: 1 / a.abs()),
    ("ex2.approx.f32", lambda a: torch.exp2(a.abs())),
    ("lg2.approx.f32", lambda a: a.abs().log2()),
    ("tanh.approx.f32", lambda a: a.abs().tanh()),
]


@pytest.mark.parametrize(("opcode", "formula"), APPROXIMATE, ids=[c[0] for c in APPROXIMATE])
def test_special_functions(opcode: str, formula: Callable[..., torch.Tensor]) -> None:
    a = operands(torch.float32, 0)
    output = torch.zeros_like(a)
    run(f"  abs.f32 %out, %in0;\n  {opcode} %out, %out;", [a], output)
    expected = formula(a.double()).float()
    normal = expected.abs() >= torch.finfo(torch.float32).tiny
    torch.testing.assert_close(output[normal], expected[normal], rtol=3e-7, atol=0, equal_nan=True)


def test_exponential_over_its_whole_range() -> None:
    a = torch.linspace(-150, 129, 1024)
    output = torch.zeros_like(a)
    run("  ex2.approx.f32 %out, %in0;", [a], output)
    torch.testing.assert_close(output, torch.exp2(a.double()).float(), rtol=3e-7, atol=2e-45)


@pytest.mark.parametrize(("mode", "direction"), [("rm", -np.inf), ("rp", np.inf), ("rz", 0.0)])
def test_directed_rounding(mode: str, direction: float) -> None:
    a, b = operands(torch.float32, 0, special=False), operands(torch.float32, 1, special=False)
    output = torch.zeros_like(a)
    run(f"  mul.{mode}.f32 %out, %in0, %in1;", [a, b], output)
    exact = a.double() * b.double()
    nearest = exact.float().numpy()
    toward = np.nextafter(nearest, np.float32(direction))
    if mode == "rz":
        overshot = np.abs(nearest.astype(np.float64)) > exact.abs().numpy()
    else:
        overshot = (nearest.astype(np.float64) - exact.numpy()) * np.sign(direction) < 0
    np.testing.assert_array_equal(output.numpy(), np.where(overshot, toward, nearest))


def test_flush_and_saturate() -> None:
    a = torch.tensor([1e-40, -1e-40, 0.25, 7.0, -3.0, float("nan")])
    output = torch.zeros_like(a)
    run("  add.ftz.f32 %out, %in0, 0f00000000;", [a], output)
    assert output[:3].tolist() == [0.0, 0.0, 0.25]
    run("  add.sat.f32 %out, %in0, 0f00000000;", [a], output)
    assert output[2:].tolist() == [0.25, 1.0, 0.0, 0.0]


COMPARISONS = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: (a < b) | (a > b), "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "neu": lambda a, b: a != b, "ltu": lambda a, b: ~(a >= b), "geu": lambda a, b: ~(a < b),
    "equ": lambda a, b: ~((a < b) | (a > b)), "nan": lambda a, b: a.isnan() | b.isnan(),
    "num": lambda a, b: ~(a.isnan() | b.isnan()),
}  # fmt: skip


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(name: str, kind: str) -> None:
    a, b = operands(DTYPES[kind], 0), operands(DTYPES[kind], 1)
    output = torch.zeros(a.numel(), dtype=torch.int32)
    run(f"  setp.{name}.{kind} %p0, %in0, %in1;\n  selp.u32 %out, 1, 0, %p0;", [a, b], output)
    assert output.bool().tolist() == COMPARISONS[name](a, b).tolist()


def test_predicates_are_joined_and_negated() -> None:
    a = torch.arange(64, dtype=torch.int32)
    output = torch.zeros_like(a)
    body = """
  setp.lt.s32 %p0, %in0, 40;
  setp.gt.and.s32 %p1|%p2, %in0, 20, %p0;
  not.pred %p3, %p1;
  and.pred %p4, %p2, !%p1;
  mov.u32 %out, 0;
  @%p1 add.s32 %out, %out, 1;
  @!%p1 add.s32 %out, %out, 2;
  @%p3 add.s32 %out, %out, 4;
  @%p4 add.s32 %out, %out, 8;"""
    run(body, [a], output)
    expected = [1 if 20 < i < 40 else 6 + (8 if i < 40 and i <= 20 else 0) for i in range(64)]
    assert output.tolist() == expected


@pytest.mark.parametrize("kind", ["f16", "bf16", "f64"])
def test_conversion_from_float32(kind: str) -> None:
    a = operands(torch.float32, 0)
    output = torch.zeros(a.numel(), dtype=DTYPES[kind])
    run(f"  cvt.{'' if kind == 'f64' else 'rn.'}{kind}.f32 %out, %in0;", [a], output)
    assert same(output, a.to(DTYPES[kind]))
    back = torch.zeros_like(a)
    run(f"  cvt.{'rn.' if kind == 'f64' else ''}f32.{kind} %out, %in0;", [output], back)
    assert same(back, output.float())


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_every_half_widens(kind: str) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(64, 1024)
    for block in every:
        output = torch.zeros(1024)
        run(f"  cvt.f32.{kind} %out, %in0;", [block.contiguous()], output)
        assert same(output, block.view(DTYPES[kind]).float())


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
def test_packing_puts_the_first_operand_high(kind: str) -> None:
    a, b = operands(torch.float32, 0), operands(torch.float32, 1)
    output = torch.zeros(a.numel(), dtype=torch.int32)
    run(f"  cvt.rn.{kind}.f32 %out, %in0, %in1;", [a, b], output)
    halves = output.view(DTYPES[kind[:-2]]).view(-1, 2)
    assert same(halves[:, 1], a.to(halves.dtype))
    assert same(halves[:, 0], b.to(halves.dtype))


@pytest.mark.parametrize(
    ("mode", "whole"),
    [("rni", torch.round), ("rzi", torch.trunc), ("rmi", torch.floor), ("rpi", torch.ceil)],
)
def test_float_to_integer(mode: str, whole: Callable[[torch.Tensor], torch.Tensor]) -> None:
    a = operands(torch.float32, 3)
    for kind, low, high in (("s32", -(2**31), 2**31 - 1), ("u32", 0, 2**32 - 1)):
        output = torch.zeros(a.numel(), dtype=torch.int32)
        run(f"  cvt.{mode}.{kind}.f32 %out, %in0;", [a], output)
        expected = whole(a.double()).nan_to_num(0.0, high, low).clamp(low, high)
        assert (output.long() % 2**32).tolist() == (expected.long() % 2**32).tolist()


@pytest.mark.parametrize(
    ("kind", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)]
)
def test_float8_saturates(kind: str, dtype: torch.dtype) -> None:
    values = [v for v in SPECIAL if v == v] + np.linspace(-500, 500, 203).tolist()
    a = torch.tensor([*values, *[v * 1e-3 for v in values]])
    a = a[: a.numel() // 2 * 2]
    output = torch.zeros(a.numel() // 2, dtype=torch.int16)
    run(
        f"  cvt.rn.satfinite.{kind}x2.f32 %out, %in1, %in0;",
        [a[0::2].contiguous(), a[1::2].contiguous()],
        output,
    )
    limit = torch.finfo(dtype).max
    assert same(output.view(dtype).float(), a.clamp(-limit, limit).to(dtype).float())
    half = torch.zeros(a.numel() // 2, dtype=torch.int32)
    run(f"  cvt.rn.f16x2.{kind}x2 %out, %in0;", [output], half)
    assert same(half.view(torch.float16).float(), output.view(dtype).float())
