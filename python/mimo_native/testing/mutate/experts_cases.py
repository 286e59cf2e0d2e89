"""Cases of the routed layers: the sort, both products, the sum over the slots, SwiGLU."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from ... import ops
from ..gpu import SimulatedGpu
from .gemm_cases import HOPPER, PRODUCTS, numbers
from .subjects import Case, register

__all__: list[str] = []
_F32, _BF16 = torch.float32, torch.bfloat16


def _close(got: Tensor, want: Tensor) -> None:
    tolerance = 2.0**-5 if got.dtype == _BF16 else 1e-4
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance, equal_nan=True)


def _mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, value = (x.double() @ up.double().T).chunk(2, dim=-1)
    return (silu(gate) * value) @ down.double().T


def _weights(*lead: int, width: int, ffn: int, dtype: torch.dtype, aligned: bool) -> list[Tensor]:
    up = numbers(*lead, 2 * ffn, width, dtype=dtype, aligned=aligned)
    down = numbers(*lead, width, ffn, dtype=dtype, aligned=aligned)
    return [up.mul_(width**-0.5), down.mul_(ffn**-0.5)]


def _dense(
    tokens: int, width: int, ffn: int, dtype: torch.dtype, weight: torch.dtype, aligned: bool = True
) -> Case:
    def case(_: SimulatedGpu) -> None:
        x = numbers(tokens, width, dtype=dtype, aligned=aligned)
        weights = _weights(width=width, ffn=ffn, dtype=weight, aligned=aligned)
        _close(ops.swiglu_mlp(x, *weights), _mlp(x, *weights))

    return case


def _routed(
    tokens: int, slots: int, experts: int, dtype: torch.dtype, weight: torch.dtype,
    width: int = 16, ffn: int = 24, aligned: bool = True, stray: bool = False,
    first: int | None = None,
) -> Case:  # fmt: skip
    """``stray``: some ids are no expert's, and their tokens NaN. ``first``: the slot of row 0."""

    def case(_: SimulatedGpu) -> None:
        x = numbers(tokens, width, dtype=dtype, aligned=aligned)
        weights = _weights(experts, width=width, ffn=ffn, dtype=weight, aligned=aligned)
        generator = torch.Generator().manual_seed(tokens)
        ids = torch.randint(experts, (tokens, slots), generator=generator, dtype=torch.int32)
        if stray:
            ids[1::5, 0], ids[2::7, slots - 1] = -1, experts
        if first is not None:
            ids.clamp_(min=1)[0, first] = 0
        share = torch.rand(tokens, slots, generator=generator)
        want = torch.zeros(tokens, width, dtype=torch.float64)
        for expert in range(experts):
            token, slot = (ids == expert).nonzero(as_tuple=True)
            part = _mlp(x[token], weights[0][expert], weights[1][expert])
            want.index_add_(0, token, part * share[token, slot, None].double())
        want[((ids < 0) | (ids >= experts)).any(-1)] = torch.nan
        _close(ops.expert_mlp(x, *weights, ids, share), want)

    return case


def _swiglu(rows: int, ffn: int, dtype: torch.dtype, aligned: bool = True) -> Case:
    def case(_: SimulatedGpu) -> None:
        gate_up = numbers(rows, 2 * ffn, dtype=dtype, aligned=aligned)
        gate, up = gate_up.double().chunk(2, dim=-1)
        _close(ops.swiglu(gate_up), silu(gate) * up)

    return case


_KINDS = ((_BF16, _BF16), (_F32, _F32), (_BF16, _F32))
_ROUTED: tuple[Case, ...] = (
    *(_dense(1 + i % 2 * 8, 16, 5 + i, *kind) for kind in _KINDS for i in range(4)),
    *(_dense(33 + i % 4 * 8, 16, 9 + i, *kind) for kind in _KINDS for i in range(8)),
    *(_dense(t, 16, f, _BF16, _BF16)
      for t, f in ((16, 5), (16, 7), (16, 16), (9, 5), (409, 5), (441, 5))),
    _dense(57, 16, 9, _BF16, _BF16, False),
    _dense(64, 320, 16, _BF16, _BF16),
    *(_dense(64, 136, 32, x, _F32) for x in (_BF16, _F32)),
    *(_dense(t, 16, f, x, _F32, False) for x in (_BF16, _F32)
      for t, f in ((5, 9), (17, 24), (33, 9), (49, 24))),
    *(_dense(33 + i % 4 * 8, 16, 9 + i, _BF16, _BF16, False) for i in range(8)),
    *(_dense(33 + 8 * i, 16, 16, _BF16, _BF16) for i in range(4)),
    *(_dense(385 + 8 * i, 16, 16, _BF16, _BF16) for i in range(8)),
    *(_dense(3, 64 * stage + 1, 16, _BF16, _BF16) for stage in range(5)),
    *(_dense(33, 64 * stage + 1, 16, _BF16, _BF16) for stage in range(3)),
    *(_dense(385, 64 * stage + 1, 16, _BF16, _BF16) for stage in range(2)),
    *(_dense(m, k * stage + 1, 16, x, _F32) for x in (_BF16, _F32) for m, k in ((3, 64), (33, 32))
      for stage in range(2)),
    *(_dense(17, 16, f, *kind) for kind in _KINDS for f in (24, 33)),
    *(_dense(385 + 8 * i, 16, 5 + i, _BF16, _BF16) for i in range(8)),
    *(_dense(3, 456, 8, *kind) for kind in _KINDS),
    _dense(512, 200, 128, _BF16, _BF16),
    *(_dense(64, 64 * s + j, 32, _BF16, _BF16, False) for s in range(4) for j in range(1, 9)),
    *(_dense(64, 32 * s + j, 32, x, _F32, False) for x in (_BF16, _F32) for s in range(3)
      for j in range(1, 9)),
    *(_routed(tokens, 2, experts, *kind, aligned=aligned, stray=stray) for kind in _KINDS
      for tokens, experts, aligned, stray in ((1, 3, True, False), (40, 33, True, True),
                                              (70, 2, True, False), (200, 2, True, True),
                                              (30, 3, False, True), (512, 3, True, False),
                                              (520, 5, True, True))),
    *(_routed(3, slots, 4, dtype, dtype, width=w, ffn=8) for slots in range(1, 9)
      for dtype in (_BF16, _F32) for w in (8, 9)),
    *(_routed(1, 7, 2, dtype, dtype, width=w, ffn=8, first=slot) for slot in range(7)
      for dtype in (_BF16, _F32) for w in (8, 9)),
    # More counters than four rounds of a block, more tiles than one; four chunks.
    *(_routed(tokens, 2, experts, _BF16, _BF16, width=8, ffn=8) for tokens, experts in
      ((40, 100), (512, 1023), (520, 1023))),
    _routed(640, 6, 100, _BF16, _BF16, width=8, ffn=8),
    _routed(2, 1, 1023, _BF16, _BF16, width=8, ffn=8),
    _routed(600, 4, 7, _F32, _F32, width=8, ffn=8, stray=True),
    _routed(30, 3, 4, _BF16, _BF16, width=33, ffn=16),
    _routed(30, 3, 4, _BF16, _BF16, width=16, ffn=33),
    *(_routed(9, 2, 2, dtype, dtype, width=w, ffn=8) for dtype in (_BF16, _F32)
      for w in (520, 129, 128, 512)),
    *(_swiglu(rows, ffn, dtype, aligned) for dtype in (_BF16, _F32)
      for rows, ffn, aligned in ((3, 8, True), (2, 1024, True), (2, 1032, True), (3, 7, False),
                                 (2, 128, False), (2, 130, False))),
)  # fmt: skip
register("gemm", *PRODUCTS, *_ROUTED, only=("gemm_bf16_sm80", "gemm_f32_sm80", "row_tiles_sm80"))
register("experts", *_ROUTED, only=("sort_sm80", "combine_sm80"))
register("grouped_sm90a", *HOPPER, only=("grouped_sm90a",), capability=(9, 0))
register("cutlass", *HOPPER, only=("device_kernel",), capability=(9, 0))
