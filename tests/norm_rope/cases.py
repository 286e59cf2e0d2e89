"""Problems of rms_norm, rope_table and rope."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mimo_native import reference

from ..case import FLOATS, Case, normal
from ..tolerance import UNIT_ROUNDOFF, rounding_bound, sum_bound

__all__ = ["BENCHMARKS", "CASES", "RmsNormCase", "RopeCase", "RopeTableCase"]

# The squares have one sign, so their sum keeps its relative accuracy; the root halves it. Four
# more roundings follow.
C_NORM = 2.0
# Two products and one addition, each rounded.
C_ROPE = 2.0


@dataclass(frozen=True, kw_only=True)
class RmsNormCase(Case):
    op: ClassVar[str] = "rms_norm"
    shape: tuple[int, ...]
    weight_dtype: torch.dtype | None = None
    std: float = 1.0
    eps: float = 1e-5

    def make(self, seed: int = 0) -> dict[str, object]:
        weight_dtype = self.weight_dtype or self.dtype
        return {
            "x": normal(*self.shape, seed=seed, dtype=self.dtype, std=self.std),
            "weight": normal(self.shape[-1], seed=seed + 1, dtype=weight_dtype),
            "eps": self.eps,
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        error = sum_bound(want[0].abs(), self.shape[-1] + 4, c=C_NORM)
        return (rounding_bound(want[0], error, self.dtype),)

    @property
    def flops(self) -> int:
        return 4 * torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        weight = self.shape[-1] * (self.weight_dtype or self.dtype).itemsize
        return 2 * torch.Size(self.shape).numel() * self.dtype.itemsize + weight


@dataclass(frozen=True, kw_only=True)
class RopeTableCase(Case):
    op: ClassVar[str] = "rope_table"
    dtype: torch.dtype = torch.int64
    positions: tuple[int, ...]
    theta: float
    rotary_dim: int

    def make(self, seed: int = 0) -> dict[str, object]:
        positions = torch.tensor(self.positions, dtype=torch.int64)
        return {"positions": positions, "theta": self.theta, "rotary_dim": self.rotary_dim}

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[float]:
        return (2 * UNIT_ROUNDOFF[torch.float32],)  # two correct roundings may be one step apart

    @property
    def flops(self) -> int:
        return len(self.positions) * self.rotary_dim

    @property
    def bytes(self) -> int:
        return len(self.positions) * (8 + 4 * self.rotary_dim)


@dataclass(frozen=True, kw_only=True)
class RopeCase(Case):
    op: ClassVar[str] = "rope"
    tokens: int
    heads: int
    groups: int
    qk: int
    v: int
    rotary_dim: int
    value_scale: float = 0.707
    fused: bool = False  # q, k and v as views of one projection

    def make(self, seed: int = 0) -> dict[str, object]:
        sizes = (self.heads * self.qk, self.groups * self.qk, self.groups * self.v)
        qkv = normal(self.tokens, sum(sizes), seed=seed, dtype=self.dtype)
        q, k, v = (
            part.unflatten(-1, (heads, dim))
            for part, heads, dim in zip(
                qkv.split(sizes, dim=-1),
                (self.heads, self.groups, self.groups),
                (self.qk, self.qk, self.v),
                strict=True,
            )
        )
        if not self.fused:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        positions = (torch.arange(self.tokens) * 37) % 5000
        table = reference.rope_table(positions, theta=1e4, rotary_dim=self.rotary_dim)
        return {"q": q, "k": k, "v": v, "table": table, "value_scale": self.value_scale}

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        half = self.rotary_dim // 2
        cos, sin = args["table"][:, None].abs().split(half, dim=-1)

        def turned(x: Tensor, y: Tensor) -> Tensor:
            first, second, rest = x.abs().split((half, half, self.qk - 2 * half), dim=-1)
            sums = torch.cat((first * cos + second * sin, second * cos + first * sin), dim=-1)
            error = rounding_bound(y[..., : 2 * half], sum_bound(sums, 1, c=C_ROPE), self.dtype)
            return torch.cat((error, torch.zeros_like(rest)), dim=-1)  # the rest is copied

        scaled = rounding_bound(want[2], sum_bound(want[2].abs(), 1, c=C_ROPE), self.dtype)
        return turned(args["q"], want[0]), turned(args["k"], want[1]), scaled

    @property
    def flops(self) -> int:
        heads = self.heads + self.groups
        return self.tokens * (3 * heads * self.rotary_dim + self.groups * self.v)

    @property
    def bytes(self) -> int:
        elements = (self.heads + self.groups) * self.qk + self.groups * self.v
        return self.tokens * (2 * elements * self.dtype.itemsize + 4 * self.rotary_dim)


_NORMS = [(0, 64), (1, 1), (3, 7), (5, 16), (2, 3, 33), (4, 4096), (9, 1000), (70,)]
_ROPES = [  # tokens, heads, groups, qk, v, rotary
    (0, 4, 1, 24, 16, 8), (1, 4, 1, 24, 16, 8), (5, 3, 3, 64, 64, 64), (7, 8, 1, 192, 128, 64),
    (3, 16, 1, 48, 16, 16), (33, 2, 2, 20, 6, 4), (2, 2, 1, 30, 16, 30),
]  # fmt: skip

CASES = [
    *(RmsNormCase(shape=shape, dtype=t) for shape in _NORMS for t in FLOATS),
    RmsNormCase(shape=(4, 96), dtype=torch.bfloat16, weight_dtype=torch.float32),
    *(RmsNormCase(shape=(4, 96), std=std, dtype=t) for std in (1e-20, 1e-3, 1e15) for t in FLOATS),
    RmsNormCase(shape=(4, 96), eps=1e-6),
    *(
        RopeTableCase(positions=positions, theta=theta, rotary_dim=dim)
        for positions in ((), (0,), (0, 1, 127, 128, 4095, 100_003, 262_143))
        for theta, dim in ((1e4, 8), (1e4, 64), (5e6, 64), (1e7, 2))
    ),
    *(
        RopeCase(tokens=n, heads=h, groups=g, qk=qk, v=v, rotary_dim=r, fused=fused, dtype=t)
        for n, h, g, qk, v, r in _ROPES
        for fused in (False, True)
        for t in FLOATS
    ),
    RopeCase(tokens=4, heads=2, groups=1, qk=24, v=16, rotary_dim=8, value_scale=1.0),
]

BENCHMARKS = [
    *(RmsNormCase(shape=(n, 4096), dtype=t) for n in (1, 64, 2048) for t in FLOATS),
    *(
        RopeCase(tokens=n, heads=64, groups=8, qk=192, v=128, rotary_dim=64, fused=True, dtype=t)
        for n in (1, 64, 512)
        for t in FLOATS
    ),
]
