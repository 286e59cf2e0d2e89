"""Kernels compiled by Triton run right in the interpreter, with every checker on.

Triton's code is proven on hardware, so a shared misunderstanding of PTX would show here.
"""

import pytest
import torch
from torch import Tensor

from mimo_native.testing import ptxsim
from mimo_native.testing.ptxsim import Output, Stats

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402

from . import triton_kernels  # noqa: E402

POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip
SCHEDULES = ["forward", "reverse", "random"]
ARCHS = [80, 90]


def launch(
    name: str,
    grid: int | tuple[int, ...],
    args: list,
    constants: dict[str, int],
    *,
    arch: int = 80,
    schedule: str = "random",
    warps: int = 4,
    stages: int = 3,
) -> Stats:
    """Compile for these arguments and run."""
    function = getattr(triton_kernels, name)
    names = [n for n in function.arg_names if n not in constants]
    signature = {}
    for arg_name, value in zip(names, args, strict=True):
        tensor = value.tensor if isinstance(value, Output) else value
        kind = {int: "i32", float: "fp32"}.get(type(tensor))
        signature[arg_name] = kind or POINTERS[tensor.dtype]
    signature |= dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(
        fn=function,
        signature=signature,
        constexprs={(function.arg_names.index(n),): v for n, v in constants.items()},
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, n in enumerate(function.arg_names)
            if signature[n].startswith("*")
        },
    )
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    module = ptxsim.Module(compiled.asm["ptx"])
    assert not module.unsupported, module.unsupported
    (kernel,) = module.kernels
    extra = module.parameters(kernel) - len(args)
    return module.launch(
        kernel, grid, 32 * warps, [*args, *[0] * extra],
        smem_bytes=compiled.metadata.shared, schedule=schedule, instruction_limit=1 << 26,
    )  # fmt: skip


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
def test_softmax(arch: int, schedule: str) -> None:
    x = normal(5, 300)
    out = torch.empty_like(x)
    launch("softmax", 5, [Output(out), x, 300, 300], {"BLOCK": 512}, arch=arch, schedule=schedule)
    torch.testing.assert_close(out.double(), x.double().softmax(1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
def test_layer_norm(arch: int, schedule: str) -> None:
    x, weight, bias = normal(4, 200, dtype=torch.bfloat16), normal(200, seed=1), normal(200, seed=2)
    out = torch.empty_like(x)
    args = [Output(out), x, weight, bias, 200, 1e-5]
    launch("layer_norm", 4, args, {"BLOCK": 256}, arch=arch, schedule=schedule)
    want = torch.nn.functional.layer_norm(x.double(), (200,), weight.double(), bias.double(), 1e-5)
    torch.testing.assert_close(out.double(), want, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "tf32"])
def test_matmul(dtype: torch.dtype, arch: int, schedule: str) -> None:
    a, b = normal(100, 128, dtype=dtype), normal(128, 80, seed=1, dtype=dtype)
    c = torch.empty(100, 80)
    blocks = {"BM": 64, "BN": 64, "BK": 32}
    stats = launch(
        "matmul", (2, 2), [Output(c), a, b, 100, 80, 128], blocks, arch=arch, schedule=schedule
    )
    assert any(op.startswith(("mma.sync", "wgmma.mma_async")) for op in stats.opcodes)
    bound = (a.double().abs() @ b.double().abs()) * (2e-3 if dtype == torch.float32 else 1e-6)
    assert ((c.double() - a.double() @ b.double()).abs() <= bound).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
def test_attention(arch: int, schedule: str) -> None:
    heads, tokens, dim = 2, 128, 64
    q, k, v = (normal(heads, tokens, dim, seed=i, dtype=torch.bfloat16) for i in range(3))
    out = torch.empty_like(q)
    scale = dim**-0.5
    launch(
        "attention", (tokens // 64, heads),
        [Output(out), q, k, v, tokens, scale * 1.4426950408889634],
        {"D": dim, "BM": 64, "BN": 32}, arch=arch, schedule=schedule,
    )  # fmt: skip
    score = q.double() @ k.double().transpose(1, 2) * scale
    score = score.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
    want = score.softmax(-1) @ v.double()
    torch.testing.assert_close(out.double(), want, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
def test_atomics(arch: int, schedule: str) -> None:
    x = torch.randint(0, 10, (700,), generator=torch.Generator().manual_seed(0)).int()
    counts, largest = torch.zeros(10, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    launch("histogram", 3, [counts, largest, x, 700], {"BLOCK": 256}, arch=arch, schedule=schedule)
    assert counts.tolist() == torch.bincount(x, minlength=10).tolist()
    assert largest.item() == x.max().item()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("arch", ARCHS)
def test_lock(arch: int, schedule: str) -> None:
    x, out = normal(4 * 128), torch.zeros(1)
    lock = torch.zeros(1, dtype=torch.int32)
    launch("spin_sum", 4, [out, lock, x], {"BLOCK": 128}, arch=arch, schedule=schedule)
    torch.testing.assert_close(out.double(), x.double().sum(0, keepdim=True), rtol=0, atol=1e-4)
