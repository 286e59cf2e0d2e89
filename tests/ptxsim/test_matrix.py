"""mma.sync, ldmatrix, stmatrix and cp.async: fragments by their published layout, and a GEMM."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mimo_native.testing import ptxsim
from mimo_native.testing.ptxsim import CheckError, Output

from .conftest import compiled
from .snippet import HEADER

SCHEDULES = ["forward", "reverse", "random"]
Index = Callable[[int, int], tuple[int, int]]  # (lane, element) -> (row, column)

# Where element i of a lane's fragment lies, from the PTX manual's section on each shape.


def a_16bit(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + 8 * (i // 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i // 4)


def b_16bit(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 2 + i % 2 + 8 * (i // 2), lane // 4


def a_8bit(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + 8 * (i // 4 % 2), lane % 4 * 4 + i % 4 + 16 * (i // 8)


def b_8bit(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 * 4 + i % 4 + 16 * (i // 4), lane // 4


def a_32bit(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + 8 * (i % 2), lane % 4 + 4 * (i // 2)


def b_32bit(lane: int, i: int) -> tuple[int, int]:
    return lane % 4 + 4 * i, lane // 4


def accumulator(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2


def fragment(matrix: Tensor, index: Index, elements: int) -> Tensor:
    """int32 [registers, 32] of a matrix."""
    lanes = torch.stack(
        [torch.stack([matrix[index(lane, i)] for i in range(elements)]) for lane in range(32)]
    )
    return lanes.contiguous().view(torch.int32).view(32, -1).t().contiguous()


def matrix_of(registers: Tensor, dtype: torch.dtype) -> Tensor:
    values = registers.t().contiguous().view(dtype).view(32, -1)
    out = torch.empty(16, 8, dtype=dtype)
    for lane in range(32):
        for i in range(4):
            out[accumulator(lane, i)] = values[lane, i]
    return out


def mma(opcode: str, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Registers of the result; a, b, c are registers [n, 32]."""
    counts = {"a": a.shape[0], "b": b.shape[0], "c": c.shape[0]}
    lines = [
        HEADER,
        ".visible .entry kernel(.param .u64 p_a, .param .u64 p_b, .param .u64 p_c)",
        "{",
    ]
    lines += [f"  .reg .b32 %{name}<{n}>;" for name, n in counts.items()]
    lines += ["  .reg .b32 %t; .reg .b64 %o, %p;", "  mov.u32 %t, %tid.x;"]
    lines += ["  mul.wide.u32 %o, %t, 4;"]
    for name, n in counts.items():
        lines += [f"  ld.param.u64 %p, [p_{name}];", "  add.u64 %p, %p, %o;"]
        lines += [f"  ld.global.b32 %{name}{i}, [%p+{128 * i}];" for i in range(n)]
    names = {k: "{" + ", ".join(f"%{k}{i}" for i in range(n)) + "}" for k, n in counts.items()}
    lines.append(f"  {opcode} {names['c']}, {names['a']}, {names['b']}, {names['c']};")
    lines += [f"  st.global.b32 [%p+{128 * i}], %c{i};" for i in range(counts["c"])]
    module = ptxsim.Module("\n".join([*lines, "  ret;", "}"]))
    assert not module.unsupported, module.unsupported
    out = c.clone()
    module.launch("kernel", 1, 32, [a, b, out])
    return out


FORMS = [
    (k, kind, dtype, a, b, sums)
    for kind, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16))
    for k, a, b in ((16, a_16bit, b_16bit), (8, a_16bit, b_16bit))
    for sums in (("f32", "f16") if kind == "f16" else ("f32",))
]
FORMS += [(k, "tf32", torch.float32, a_32bit, b_32bit, "f32") for k in (8, 4)]
FORMS += [
    (k, kind, dtype, a_8bit, b_8bit, sums)
    for kind, dtype, sums in (
        ("e4m3", torch.float8_e4m3fn, "f32"), ("e5m2", torch.float8_e5m2, "f32"),
        ("s8", torch.int8, "s32"), ("u8", torch.uint8, "s32"),
    )
    for k in (32, 16)
]  # fmt: skip


@pytest.mark.parametrize(
    ("k", "kind", "dtype", "a_index", "b_index", "sums"),
    FORMS,
    ids=[f"k{form[0]}-{form[1]}-{form[5]}" for form in FORMS],
)
def test_product(
    k: int, kind: str, dtype: torch.dtype, a_index: Index, b_index: Index, sums: str
) -> None:
    generator = torch.Generator().manual_seed(k)
    if sums == "s32":
        low, high = (0, 256) if kind == "u8" else (-128, 128)
        a, b = (torch.randint(low, high, size, generator=generator) for size in ((16, k), (k, 8)))
        c = torch.randint(-(10**6), 10**6, (16, 8), generator=generator, dtype=torch.int32)
    else:
        a, b = (torch.randn(size, generator=generator) for size in ((16, k), (k, 8)))
        c = torch.randn(16, 8, generator=generator)
    if kind == "tf32":  # the unit ignores the low 13 bits
        a, b = ((x.view(torch.int32) & ~0x1FFF).view(torch.float32) for x in (a, b))
    a, b = a.to(dtype), b.to(dtype)
    c = c.half() if sums == "f16" else c
    registers = fragment(c, accumulator, 4)
    result = mma(
        f"mma.sync.aligned.m16n8k{k}.row.col.{sums}.{kind}.{kind}.{sums}",
        fragment(a, a_index, 16 * k // 32), fragment(b, b_index, 8 * k // 32), registers,
    )  # fmt: skip
    want = a.double() @ b.double() + c.double()
    got = matrix_of(result, c.dtype).double()
    if sums == "s32":
        assert torch.equal(got, want)
    else:
        bound = (a.double().abs() @ b.double().abs() + c.double().abs()) * 2.0**-20
        bound += want.abs() * (2.0**-11 if sums == "f16" else 0)
        assert ((got - want).abs() <= bound).all()


@pytest.fixture(scope="module")
def gemm() -> ptxsim.Module:
    return compiled("gemm.cu", "sm_90")


def run_gemm(module: ptxsim.Module, bug: int, schedule: str, seed: int = 0):
    rows, cols, depth = 150, 100, 128
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, depth, generator=generator).bfloat16()
    b = torch.randn(cols, depth, generator=generator).bfloat16()
    c = torch.empty(rows, cols)
    stats = module.launch(
        f"_Z4gemmILi{bug}EEvPK13__nv_bfloat16S2_Pfiii", (2, 1), 256,
        [a, b, Output(c), rows, cols, depth],
        smem_bytes=3 * 2 * 128 * 64, schedule=schedule, seed=seed,
    )  # fmt: skip
    error = (c.double() - a.double() @ b.double().t()).abs().max().item()
    return stats, error


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_gemm_is_right_and_silent(gemm: ptxsim.Module, schedule: str) -> None:
    assert not gemm.unsupported
    stats, error = run_gemm(gemm, 0, schedule)
    assert error < 1e-4
    assert stats.bank_conflicts == 0
    assert stats.opcodes["mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"] == 2 * 8 * 128


# number of the mistake in gemm.cu -> kinds of which one must be reported
MISTAKES = {
    1: {"in flight"},
    2: {"race", "uninitialised", "in flight"},
    3: {"out of bounds"},
    4: {"in flight at exit"},
    7: {"in flight", "race"},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("bug", MISTAKES)
def test_gemm_mistake_is_found(gemm: ptxsim.Module, bug: int, schedule: str) -> None:
    with pytest.raises(CheckError) as caught:
        run_gemm(gemm, bug, schedule)
    assert {report.kind for report in caught.value.reports} & MISTAKES[bug], str(caught.value)


def test_gemm_without_swizzle_has_bank_conflicts(gemm: ptxsim.Module) -> None:
    stats, error = run_gemm(gemm, 5, "forward")
    assert error < 1e-4
    assert stats.bank_conflicts > 0


def test_gemm_with_turned_fragments_is_wrong(gemm: ptxsim.Module) -> None:
    assert run_gemm(gemm, 6, "forward")[1] > 1


def test_matrices_are_turned(gemm: ptxsim.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-(2**31), 2**31, (4, 32), generator=generator, dtype=torch.int64).int()
    tiles = x.clone().view(torch.int16).view(4, 8, 8)
    with pytest.raises(CheckError, match="inactive lane"):
        gemm.launch("_Z4turnILb1EEvPj", 1, 32, [x.clone()])
    gemm.launch("_Z4turnILb0EEvPj", 1, 32, [x])
    assert torch.equal(x.view(torch.int16).view(4, 8, 8), tiles.transpose(1, 2))


COPIES = """
.visible .entry kernel(.param .u64 p_in, .param .u64 p_out)
{{
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<8>;
  .shared .align 16 .b8 tile[512];
  mov.u32 %r0, %tid.x;
  ld.param.u64 %rd0, [p_in];
  mul.wide.u32 %rd1, %r0, 16;
  add.u64 %rd0, %rd0, %rd1;
  mov.u32 %r1, tile;
  shl.b32 %r2, %r0, 4;
  add.u32 %r1, %r1, %r2;
  setp.lt.u32 %p0, %r0, 16;
  selp.b32 %r3, 8, 16, %p0;
  {copy}
  {wait}
  ld.shared.v4.b32 {{%r4, %r5, %r6, %r7}}, [%r1];
  ld.param.u64 %rd2, [p_out];
  add.u64 %rd2, %rd2, %rd1;
  st.global.v4.b32 [%rd2], {{%r4, %r5, %r6, %r7}};
  ret;
}}"""


@pytest.mark.parametrize(
    ("copy", "zeros"),
    [
        ("cp.async.cg.shared.global [%r1], [%rd0], 16;", 0),
        ("cp.async.ca.shared::cta.global.L2::128B [%r1], [%rd0], 16, %r3;", 2),
        ("cp.async.ca.shared.global [%r1], [%rd0], 16, %p0;", 4),
    ],
)
def test_copy_and_zero_fill(copy: str, zeros: int) -> None:
    x = torch.arange(1, 129, dtype=torch.int32).view(32, 4)
    want = x.clone()
    want[:16, 4 - zeros :] = 0
    waits = ["cp.async.wait_all;", "cp.async.commit_group;\n  cp.async.wait_group 0;"]
    for wait in waits:
        module = ptxsim.Module(HEADER + COPIES.format(copy=copy, wait=wait))
        assert not module.unsupported, module.unsupported
        out = torch.zeros_like(x)
        module.launch("kernel", 1, 32, [x, out])
        assert torch.equal(out, want)
    late = ptxsim.Module(HEADER + COPIES.format(copy=copy, wait="cp.async.wait_group 0;"))
    with pytest.raises(CheckError, match="in flight"):
        late.launch("kernel", 1, 32, [x, torch.zeros_like(x)])
