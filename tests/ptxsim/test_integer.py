"""Integer instructions against Python's integers."""

from collections.abc import Callable

import pytest
import torch

from .snippet import run

U32, U64 = 2**32, 2**64
EDGES = [0, 1, 2, 3, 7, 31, 32, 33, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 0x12345678, 0xDEADBEEF]


def operands(bits: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(-(2**62), 2**62, (32,), generator=generator).tolist()
    values = [*EDGES, 2**63, 2**63 - 1, 2**64 - 1, *random]
    order = torch.randperm(len(values), generator=generator).tolist()
    return [values[i] % 2**bits for i in order]


def as_tensor(values: list[int], bits: int) -> torch.Tensor:
    kinds = {16: torch.int16, 32: torch.int32, 64: torch.int64}
    return torch.tensor([signed(v, bits) for v in values], dtype=kinds[bits])


def signed(value: int, bits: int) -> int:
    value %= 2**bits
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def truncated_quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def field(a: int, position: int, length: int) -> int:
    return a >> position & ((1 << length) - 1)


def prmt(a: int, b: int, selector: int) -> int:
    data = (a | b << 32).to_bytes(8, "little")
    out = 0
    for i in range(4):
        s = selector >> 4 * i & 15
        byte = data[s & 7]
        out |= (0xFF * (byte >> 7) if s & 8 else byte) << 8 * i
    return out


def lop3(table: int) -> Callable[[int, int, int], int]:
    def apply(a: int, b: int, c: int) -> int:
        bits = [(a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32)]
        return sum((table >> index & 1) << i for i, index in enumerate(bits))

    return apply


def s(bits: int, f: Callable[..., int]) -> Callable[..., int]:
    """``f`` on operands read as signed numbers."""
    return lambda *values: f(*(signed(v, bits) for v in values))


# opcode, operands, their bits, bits of the result, formula on unsigned operands
CASES = [
    ("add.u32", 2, 32, 32, lambda a, b: a + b),
    ("sub.s64", 2, 64, 64, lambda a, b: a - b),
    ("add.u16", 2, 16, 16, lambda a, b: a + b),
    ("mul.lo.s32", 2, 32, 32, lambda a, b: a * b),
    ("mul.lo.u64", 2, 64, 64, lambda a, b: a * b),
    ("mul.lo.u16", 2, 16, 16, lambda a, b: a * b),
    ("mul.hi.u32", 2, 32, 32, lambda a, b: a * b >> 32),
    ("mul.hi.s32", 2, 32, 32, s(32, lambda a, b: a * b >> 32)),
    ("mul.hi.u64", 2, 64, 64, lambda a, b: a * b >> 64),
    ("mul.hi.s64", 2, 64, 64, s(64, lambda a, b: a * b >> 64)),
    ("mul.wide.u16", 2, 16, 32, lambda a, b: a * b),
    ("mul.wide.s16", 2, 16, 32, s(16, lambda a, b: a * b)),
    ("mul.wide.u32", 2, 32, 64, lambda a, b: a * b),
    ("mul.wide.s32", 2, 32, 64, s(32, lambda a, b: a * b)),
    ("mad.lo.s32", 3, 32, 32, lambda a, b, c: a * b + c),
    ("mad.hi.u32", 3, 32, 32, lambda a, b, c: (a * b >> 32) + c),
    ("div.u32", 2, 32, 32, lambda a, b: a // b if b else U32 - 1),
    ("div.s32", 2, 32, 32, s(32, lambda a, b: truncated_quotient(a, b) if b else -1)),
    ("div.u64", 2, 64, 64, lambda a, b: a // b if b else U64 - 1),
    ("rem.u32", 2, 32, 32, lambda a, b: a % b if b else a),
    ("rem.s32", 2, 32, 32, s(32, lambda a, b: a - b * truncated_quotient(a, b) if b else a)),
    ("min.s32", 2, 32, 32, s(32, min)),
    ("max.u32", 2, 32, 32, max),
    ("min.u64", 2, 64, 64, min),
    ("max.s16", 2, 16, 16, s(16, max)),
    ("abs.s32", 1, 32, 32, s(32, abs)),
    ("neg.s64", 1, 64, 64, lambda a: -a),
    ("and.b32", 2, 32, 32, lambda a, b: a & b),
    ("or.b64", 2, 64, 64, lambda a, b: a | b),
    ("xor.b16", 2, 16, 16, lambda a, b: a ^ b),
    ("not.b32", 1, 32, 32, lambda a: ~a),
    ("cnot.b32", 1, 32, 32, lambda a: int(a == 0)),
    ("popc.b32", 1, 32, 32, lambda a: a.bit_count()),
    ("popc.b64", 1, 64, 32, lambda a: a.bit_count()),
    ("clz.b32", 1, 32, 32, lambda a: 32 - a.bit_length()),
    ("clz.b64", 1, 64, 32, lambda a: 64 - a.bit_length()),
    ("bfind.u32", 1, 32, 32, lambda a: a.bit_length() - 1),
    ("bfind.s32", 1, 32, 32, s(32, lambda a: (a if a >= 0 else ~a).bit_length() - 1)),
    ("bfind.shiftamt.u32", 1, 32, 32, lambda a: 32 - a.bit_length() if a else -1),
    ("brev.b32", 1, 32, 32, lambda a: int(f"{a:032b}"[::-1], 2)),
    ("brev.b64", 1, 64, 64, lambda a: int(f"{a:064b}"[::-1], 2)),
    ("sad.u32", 3, 32, 32, lambda a, b, c: abs(a - b) + c),
    ("prmt.b32", 3, 32, 32, prmt),
    ("lop3.b32 %out, %in0, %in1, %in2, 150", 3, 32, 32, lop3(150)),
    ("lop3.b32 %out, %in0, %in1, %in2, 234", 3, 32, 32, lop3(234)),
    ("shl.b32 %out, %in0, 5", 1, 32, 32, lambda a: a << 5),
    ("shl.b32 %out, %in0, 32", 1, 32, 32, lambda a: 0),
    ("shr.u32 %out, %in0, 31", 1, 32, 32, lambda a: a >> 31),
    ("shr.s32 %out, %in0, 40", 1, 32, 32, s(32, lambda a: a >> 31)),
    ("shr.s64 %out, %in0, 9", 1, 64, 64, s(64, lambda a: a >> 9)),
    ("bfe.u32 %out, %in0, 7, 9", 1, 32, 32, lambda a: field(a, 7, 9)),
    ("bfe.s32 %out, %in0, 7, 9", 1, 32, 32, lambda a: signed(field(a, 7, 9), 9)),
    ("bfe.s32 %out, %in0, 28, 9", 1, 32, 32, s(32, lambda a: a >> 28)),
    ("bfe.u64 %out, %in0, 40, 13", 1, 64, 64, lambda a: field(a, 40, 13)),
    ("bfi.b32 %out, %in0, %in1, 4, 12", 2, 32, 32,
     lambda a, b: b & ~(0xFFF << 4) | (a & 0xFFF) << 4),
    ("shf.l.wrap.b32 %out, %in0, %in1, 40", 2, 32, 32, lambda a, b: (b << 32 | a) << 8 >> 32),
    ("shf.r.clamp.b32 %out, %in0, %in1, 40", 2, 32, 32, lambda a, b: b),
    ("shf.r.wrap.b32 %out, %in0, %in1, 7", 2, 32, 32, lambda a, b: (b << 32 | a) >> 7),
    ("cvt.u32.u16 %out, %in0", 1, 16, 32, lambda a: a),
    ("cvt.s32.s16 %out, %in0", 1, 16, 32, s(16, lambda a: a)),
    ("cvt.s64.s32 %out, %in0", 1, 32, 64, s(32, lambda a: a)),
    ("cvt.u16.u32 %out, %in0", 1, 32, 16, lambda a: a),
    ("cvt.s32.s8 %out, %in0", 1, 32, 32, s(8, lambda a: a)),
    ("cvt.sat.s8.s32 %r0, %in0; mov.b32 %out, %r0", 1, 32, 32,
     s(32, lambda a: max(-128, min(127, a)))),
    ("cvt.sat.u16.s32 %h0, %in0; cvt.u32.u16 %out, %h0", 1, 32, 32,
     s(32, lambda a: max(0, min(65535, a)))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("opcode", "arity", "bits", "out_bits", "formula"), CASES, ids=[case[0] for case in CASES]
)
def test_instruction(
    opcode: str, arity: int, bits: int, out_bits: int, formula: Callable[..., int]
) -> None:
    values = [operands(bits, seed) for seed in range(arity)]
    names = ", ".join(f"%in{k}" for k in range(arity))
    body = opcode if " " in opcode else f"{opcode} %out, {names}"
    output = as_tensor([0] * len(values[0]), out_bits)
    run(f"  {body};", [as_tensor(v, bits) for v in values], output)
    assert output.tolist() == [signed(formula(*v), out_bits) for v in zip(*values, strict=True)]


def test_carry_reaches_the_next_word() -> None:
    parts = [operands(32, seed) for seed in range(4)]
    high = torch.zeros(len(parts[0]), dtype=torch.int32)
    inputs = [as_tensor(p, 32) for p in parts]
    body = "  add.cc.u32 %r0, %in0, %in2;\n  addc.u32 %out, %in1, %in3;"
    run(body, inputs, high)
    expected = [
        signed((a | b << 32) + (c | d << 32) >> 32, 32) for a, b, c, d in zip(*parts, strict=True)
    ]
    assert high.tolist() == expected
