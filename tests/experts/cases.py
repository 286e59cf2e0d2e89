"""Problems of swiglu, swiglu_mlp and expert_mlp."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from ..case import FLOATS, Case, normal
from ..tolerance import SMALLEST_NORMAL, UNIT_ROUNDOFF, noise_bound, rounding_bound, sum_bound
from .recorded import EXPERTS, SLOTS, recorded_ids

__all__ = [
    "BACKWARD_BENCHMARKS",
    "BENCHMARKS",
    "CASES",
    "ExpertMlpCase",
    "SwigluCase",
    "SwigluMlpCase",
]

C = 2.0  # the sums are those of gemm
C_SILU = 8.0  # exp, division and two products, each within two roundings


def swiglu_error(gate: Tensor, up: Tensor, gate_error: Tensor, up_error: Tensor) -> Tensor:
    """Error of silu(gate) * up in float32, |silu'| being below 1.1; a tiny sigmoid may be 0."""
    own = C_SILU * UNIT_ROUNDOFF[torch.float32] * (silu(gate) * up).abs()
    own = own + 4 * SMALLEST_NORMAL * (gate * up).abs()
    return 1.1 * gate_error * (up.abs() + up_error) + silu(gate).abs() * up_error + own


def mlp_error(
    x: Tensor, w_gate_up: Tensor, w_down: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Value and float32 error of the MLP; its inner activations may be stored in ``dtype``."""
    gate, up = (x @ w_gate_up.T).chunk(2, dim=-1)
    errors = sum_bound(x.abs() @ w_gate_up.abs().T, x.shape[-1], c=C).chunk(2, dim=-1)
    h = silu(gate) * up
    h_error = rounding_bound(h, swiglu_error(gate, up, *errors), dtype)
    error = sum_bound(h.abs() @ w_down.abs().T, h.shape[-1], c=C) + noise_bound(h_error, w_down)
    return h @ w_down.T, error


@dataclass(frozen=True, kw_only=True)
class SwigluCase(Case):
    op: ClassVar[str] = "swiglu"
    shape: tuple[int, ...]
    std: float = 1.0

    def make(self, seed: int = 0) -> dict[str, object]:
        return {"gate_up": normal(*self.shape, seed=seed, dtype=self.dtype, std=self.std)}

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        gate, up = args["gate_up"].chunk(2, dim=-1)
        nought = torch.zeros_like(up)
        return (rounding_bound(want[0], swiglu_error(gate, up, nought, nought), self.dtype),)

    @property
    def flops(self) -> int:
        return 4 * torch.Size(self.shape).numel() // 2

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * 3 // 2 * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class SwigluMlpCase(Case):
    op: ClassVar[str] = "swiglu_mlp"
    tokens: int
    width: int
    ffn: int

    def make(self, seed: int = 0) -> dict[str, object]:
        d, f, t = self.width, self.ffn, self.dtype
        return {
            "x": normal(self.tokens, d, seed=seed, dtype=t),
            "w_gate_up": normal(2 * f, d, seed=seed + 1, dtype=t, std=d**-0.5),
            "w_down": normal(d, f, seed=seed + 2, dtype=t, std=f**-0.5),
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _, error = mlp_error(args["x"], args["w_gate_up"], args["w_down"], self.dtype)
        return (rounding_bound(want[0], error, self.dtype),)

    @property
    def flops(self) -> int:
        return 6 * self.tokens * self.width * self.ffn

    @property
    def bytes(self) -> int:
        return (2 * self.tokens * self.width + 3 * self.width * self.ffn) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class ExpertMlpCase(Case):
    op: ClassVar[str] = "expert_mlp"
    tokens: int
    width: int
    ffn: int
    experts: int
    slots: int
    # "hot": one expert takes every first slot; "one": it takes all; "few": most are empty; "zipf":
    # the expert of rank r is chosen as often as 1 / r says; "recorded": see recorded.py
    routing: str = "uniform"
    data: str = "normal"  # or "huge", "denormal", "zeros": every third token is zero

    def ids(self, seed: int) -> Tensor:
        if self.routing == "recorded":
            return recorded_ids(self.tokens, seed)
        gen = torch.Generator().manual_seed(seed)
        chosen = self.experts if self.routing != "few" else self.slots
        order = torch.rand(self.tokens, chosen, generator=gen)
        if self.routing == "hot":
            order[:, self.experts // 2] = 2.0
        if self.routing == "zipf":  # the K largest of log p + Gumbel noise are a sample without
            ranks = torch.randperm(self.experts, generator=torch.Generator().manual_seed(17)) + 1
            order = -torch.log(-torch.log(order.clamp(1e-7, 1 - 1e-7))) - torch.log(ranks.float())
        if self.routing == "one":
            return torch.full((self.tokens, self.slots), self.experts // 2, dtype=torch.int32)
        return order.argsort(-1, descending=True)[:, : self.slots].int()

    def make(self, seed: int = 0) -> dict[str, object]:
        d, f, e, t = self.width, self.ffn, self.experts, self.dtype
        weights = normal(self.tokens, self.slots, seed=seed + 4, dtype=torch.float32).exp()
        x = normal(self.tokens, d, seed=seed, dtype=torch.float32)
        x = x * {"huge": 2.0**40, "denormal": 2.0**-130}.get(self.data, 1.0)
        if self.data == "zeros":
            x[::3] = 0
        return {
            "x": x.to(t),
            "w_gate_up": normal(e, 2 * f, d, seed=seed + 1, dtype=t, std=d**-0.5),
            "w_down": normal(e, d, f, seed=seed + 2, dtype=t, std=f**-0.5),
            "ids": self.ids(seed + 3),
            "weights": weights / weights.sum(-1, keepdim=True),
        }

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, ids = args["x"], args["ids"]
        error, magnitude = torch.zeros_like(x), torch.zeros_like(x)
        for expert in ids.unique().tolist():
            token, slot = (ids == expert).nonzero(as_tuple=True)
            weight = args["weights"][token, slot, None].abs()
            y, y_error = mlp_error(
                x[token], args["w_gate_up"][expert], args["w_down"][expert], self.dtype
            )
            error.index_add_(0, token, weight * y_error)
            magnitude.index_add_(0, token, weight * y.abs())
        error += sum_bound(magnitude, self.slots, c=C)
        return (rounding_bound(want[0], error, self.dtype),)

    @property
    def flops(self) -> int:
        return 6 * self.tokens * self.slots * self.width * self.ffn

    @property
    def bytes(self) -> int:
        return self.traffic(self.ids(3))

    def traffic(self, ids: Tensor) -> int:
        """Weights of the experts that are hit, activations in and out, ids and weights."""
        hit = ids.unique().numel()
        elements = 3 * hit * self.width * self.ffn + 2 * self.tokens * self.width
        return elements * self.dtype.itemsize + 8 * self.tokens * self.slots


_EXPERTS = [  # tokens, width, ffn, experts, slots
    (0, 32, 16, 4, 2), (1, 32, 16, 4, 2), (1, 40, 24, 1, 1), (3, 33, 17, 5, 3), (7, 64, 32, 8, 8),
    (17, 96, 40, 16, 4), (64, 48, 32, 256, 8), (130, 32, 48, 6, 2), (5, 200, 100, 3, 1),
]  # fmt: skip
_MLPS = [(0, 32, 16), (1, 64, 96), (3, 33, 17), (17, 100, 70), (70, 64, 130), (2, 1, 1)]

CASES = [
    *(SwigluCase(shape=shape, dtype=t)
      for shape in ((0, 8), (1, 2), (3, 34), (2, 5, 64), (70, 200)) for t in FLOATS),
    *(SwigluCase(shape=(6, 64), std=std, dtype=t) for std in (1e-6, 40.0) for t in FLOATS),
    *(SwigluMlpCase(tokens=n, width=d, ffn=f, dtype=t) for n, d, f in _MLPS for t in FLOATS),
    *(ExpertMlpCase(tokens=n, width=d, ffn=f, experts=e, slots=k, dtype=t)
      for n, d, f, e, k in _EXPERTS for t in FLOATS),
    *(ExpertMlpCase(tokens=70, width=64, ffn=48, experts=32, slots=4, routing=routing, dtype=t)
      for routing in ("hot", "one", "few", "zipf") for t in FLOATS),
    *(ExpertMlpCase(tokens=n, width=64, ffn=48, experts=EXPERTS, slots=SLOTS, routing="recorded",
                    dtype=t) for n in (8, 150) for t in FLOATS),
    *(ExpertMlpCase(tokens=20, width=64, ffn=48, experts=8, slots=3, data=data, dtype=t)
      for data in ("huge", "denormal", "zeros") for t in FLOATS),
]  # fmt: skip

_SMALL = {"width": 1024, "ffn": 512, "experts": 64, "slots": 8}
_WIDE = {"width": 4096, "ffn": 2048, "experts": 32, "slots": 8}
BENCHMARKS = [
    *(ExpertMlpCase(tokens=n, dtype=torch.bfloat16, **_SMALL)
      for n in (1, 8, 16, 64, 512, 2048, 4096)),
    *(ExpertMlpCase(tokens=n, routing=routing, dtype=torch.bfloat16, **_SMALL)
      for routing in ("zipf", "recorded") for n in (8, 64, 512)),
    *(ExpertMlpCase(tokens=n, dtype=torch.bfloat16, **_WIDE)
      for n in (1, 8, 16, 64, 512, 2048, 4096)),
    *(ExpertMlpCase(tokens=n, **_SMALL) for n in (1, 64, 512)),
    *(SwigluMlpCase(tokens=n, width=1024, ffn=4096, dtype=t) for t in FLOATS for n in (1, 64, 512)),
]  # fmt: skip
BACKWARD_BENCHMARKS = [
    ExpertMlpCase(tokens=2048, dtype=torch.bfloat16, **_SMALL),
    ExpertMlpCase(tokens=512, routing="zipf", dtype=torch.bfloat16, **_SMALL),
    ExpertMlpCase(tokens=512, routing="recorded", dtype=torch.bfloat16, **_SMALL),
]
