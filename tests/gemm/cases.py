"""Problems of linear and grouped_gemm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..case import FLOATS, Case, normal
from ..tolerance import rounding_bound, sum_bound

__all__ = ["BACKWARD_BENCHMARKS", "BENCHMARKS", "CASES", "GroupedGemmCase", "LinearCase"]

# K rounding errors of one accumulator are 0.4 u sqrt(K / 3) (|x| . |w|) apart from the exact sum
# when all products have one sign, the worst case; 2 is more than eight of these deviations.
C = 2.0


@dataclass(frozen=True, kw_only=True)
class LinearCase(Case):
    op: ClassVar[str] = "linear"
    m: int
    n: int
    k: int
    data: str = "normal"
    out_dtype: torch.dtype | None = None
    leading: tuple[int, ...] = ()  # dimensions before M

    def make(self, seed: int = 0) -> dict[str, object]:
        rows = self.m * torch.Size(self.leading).numel()
        x = normal(rows, self.k, seed=seed, dtype=torch.float32)
        w = normal(self.n, self.k, seed=seed + 1, dtype=torch.float32)
        if self.data == "positive":  # no cancellation: the largest partial sums
            x, w = x.abs(), w.abs()
        elif self.data == "scales":  # magnitudes over 2^-40 .. 2^40 along K
            x = x * torch.logspace(-40, 40, self.k, base=2.0)
        elif self.data == "denormal":  # below the smallest normal number
            x = x * 2.0**-130
        x = x.to(self.dtype).view(*self.leading, self.m, self.k)
        return {"x": x, "w": w.to(self.dtype), "out_dtype": self.out_dtype}

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        error = sum_bound(args["x"].abs() @ args["w"].abs().T, self.k, c=C)
        return (rounding_bound(want[0], error, self.out_dtype or self.dtype),)

    @property
    def flops(self) -> int:
        return 2 * self.m * torch.Size(self.leading).numel() * self.n * self.k

    @property
    def bytes(self) -> int:
        rows = self.m * torch.Size(self.leading).numel()
        stored = rows * self.n * (self.out_dtype or self.dtype).itemsize
        return (rows + self.n) * self.k * self.dtype.itemsize + stored


@dataclass(frozen=True, kw_only=True)
class GroupedGemmCase(Case):
    op: ClassVar[str] = "grouped_gemm"
    sizes: tuple[int, ...]
    n: int
    k: int

    def __str__(self) -> str:
        if len(self.sizes) <= 8:
            return super().__str__()
        text = super().__str__().split("-sizes=")[0]
        return f"{text}-groups={len(self.sizes)}-rows={sum(self.sizes)}-n={self.n}-k={self.k}"

    def make(self, seed: int = 0) -> dict[str, object]:
        groups, dtype = len(self.sizes), self.dtype
        return {
            "x": normal(sum(self.sizes), self.k, seed=seed, dtype=dtype),
            "w": normal(groups, self.n, self.k, seed=seed + 1, dtype=dtype),
            "group_sizes": torch.tensor(self.sizes),
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        groups = zip(args["x"].abs().split(self.sizes), args["w"].abs(), strict=True)
        error = sum_bound(torch.cat([x @ w.T for x, w in groups]), self.k, c=C)
        return (rounding_bound(want[0], error, self.dtype),)

    @property
    def flops(self) -> int:
        return 2 * sum(self.sizes) * self.n * self.k

    @property
    def bytes(self) -> int:
        rows, hit = sum(self.sizes), sum(size > 0 for size in self.sizes)
        return (rows * (self.k + self.n) + hit * self.n * self.k) * self.dtype.itemsize


_LINEAR = [
    (0, 33, 40), (1, 1, 1), (1, 32, 64), (1, 300, 4096), (2, 33, 63), (3, 31, 65), (4, 32, 2),
    (5, 100, 257), (7, 64, 3), (16, 64, 128), (17, 96, 1000), (33, 1, 96), (64, 48, 192),
    (130, 70, 96), (257, 40, 33),
]  # fmt: skip
_GROUPS = [
    (0, 0, 0), (1,), (3, 0, 1, 0, 5), (0, 70, 0, 0), (1, 1, 1, 1, 1, 1, 1, 1), (17, 0, 33, 2),
    (16, 15, 1, 0), (0, 0, 0, 2),
]  # fmt: skip

CASES = [
    *(LinearCase(m=m, n=n, k=k, dtype=t) for m, n, k in _LINEAR for t in FLOATS),
    *(
        LinearCase(m=6, n=40, k=200, data=data, dtype=t)
        for data in ("positive", "scales", "denormal")
        for t in FLOATS
    ),
    LinearCase(m=5, n=40, k=70, leading=(2, 3), dtype=torch.float32),
    LinearCase(m=5, n=40, k=70, leading=(2, 3), dtype=torch.bfloat16),
    LinearCase(m=5, n=40, k=70, dtype=torch.bfloat16, out_dtype=torch.float32),
    *(GroupedGemmCase(sizes=sizes, n=40, k=65, dtype=t) for sizes in _GROUPS for t in FLOATS),
    *(GroupedGemmCase(sizes=(2, 0, 5), n=n, k=k, dtype=t)
      for n, k in ((1, 1), (32, 64), (33, 130)) for t in FLOATS),
]  # fmt: skip

BENCHMARKS = [
    *(LinearCase(m=m, n=2048, k=4096, dtype=torch.bfloat16) for m in (1, 4, 8, 16, 64, 256, 1024)),
    *(LinearCase(m=m, n=2048, k=4096) for m in (1, 16, 256)),
    GroupedGemmCase(sizes=(64,) * 16, n=4096, k=1024, dtype=torch.bfloat16),
    GroupedGemmCase(sizes=(1, 0, 3, 2) * 8, n=4096, k=1024, dtype=torch.bfloat16),
]
BACKWARD_BENCHMARKS = [
    LinearCase(m=512, n=2048, k=4096, dtype=torch.bfloat16),
    GroupedGemmCase(sizes=(64,) * 16, n=4096, k=1024, dtype=torch.bfloat16),
]
