"""The CUDA kernels of the SwiGLU layers on the simulated GPU, under every checker."""

import importlib.util

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import SimulatedGpu, simulated_gpu

from ..case import FLOATS, Case, check_case, normal
from .cases import CASES, ExpertMlpCase, SwigluMlpCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
BF16 = torch.bfloat16
# Full and ragged large tiles; widths for which both products, one of them or none are copied by 16
# bytes; pairs in several blocks of the sort.
TILES = [
    *(SwigluMlpCase(tokens=n, width=d, ffn=f, dtype=t) for t in FLOATS
      for n, d, f in ((130, 64, 72), (40, 72, 40), (150, 40, 130))),
    *(ExpertMlpCase(tokens=n, width=d, ffn=f, experts=e, slots=k, dtype=t) for t in FLOATS
      for n, d, f, e, k in ((150, 64, 48, 2, 2), (40, 40, 72, 2, 2), (20, 33, 16, 3, 2),
                            (20, 16, 33, 3, 2), (190, 8, 8, 130, 6))),
]  # fmt: skip


def launches(case: Case) -> int:
    if case.op == "swiglu":
        return int(torch.Size(case.shape).numel() > 0)
    if case.tokens == 0:
        return 0
    if case.op == "swiglu_mlp":
        return 2
    return 3 + (1 if case.tokens * case.slots <= 1024 else 3)


def run(case: Case, **options: object) -> None:
    def on_gpu(**args: object) -> Tensor:
        with simulated_gpu(**options) as gpu:
            y = getattr(ops, case.op)(**args)
        assert len(gpu.launches) == launches(case)
        for launch in gpu.launches:
            # Threads of the sort meet at an expert's counter, which its pairs decide.
            assert launch.stats.bank_conflicts == 0 or "sort" in launch.kernel
        return y

    check_case(case, on_gpu)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case: Case, schedule: str) -> None:
    run(case, schedule=schedule, capability=(8, 0))


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", TILES, ids=str)
def test_every_tile_against_float64(case: Case, schedule: str) -> None:
    run(case, schedule=schedule, capability=(8, 0), multiprocessors=1)


@pytest.mark.parametrize("case", [*CASES, *TILES], ids=str)
def test_ptx_of_sm_90(case: Case) -> None:
    run(case, capability=(9, 0), multiprocessors=1)


def layer(x: Tensor, args: dict[str, Tensor]) -> tuple[Tensor, SimulatedGpu]:
    with simulated_gpu(multiprocessors=1) as gpu:
        return ops.expert_mlp(x=x, **args), gpu


def test_a_token_has_the_same_bits_alone_and_among_others() -> None:
    case = ExpertMlpCase(tokens=150, width=64, ffn=48, experts=2, slots=2, dtype=BF16)
    args = case.make()
    x = args.pop("x")
    whole, gpu = layer(x, args)
    one = args | {name: args[name][140:141].contiguous() for name in ("ids", "weights")}
    alone, other = layer(x[140:141], one)
    assert gpu.launches[1].kernel != other.launches[1].kernel
    assert torch.equal(alone, whole[140:141])


def test_bf16_rows_for_float32_weights() -> None:
    for tokens in (3, 70):
        case = ExpertMlpCase(tokens=tokens, width=64, ffn=48, experts=3, slots=2)
        args = case.make()
        x = args.pop("x").bfloat16()
        y, _ = layer(x, args)
        assert y.dtype == BF16
        want = ops.expert_mlp(x=x, **args)
        torch.testing.assert_close(y, want, rtol=2.0**-7, atol=1e-4)
        mlp = args["w_gate_up"][0], args["w_down"][0]
        with simulated_gpu():
            y = ops.swiglu_mlp(x, *mlp)
        torch.testing.assert_close(y, ops.swiglu_mlp(x, *mlp), rtol=2.0**-7, atol=1e-4)


def test_strided_rows() -> None:
    for dtype in FLOATS:
        case = ExpertMlpCase(tokens=6, width=32, ffn=16, experts=3, slots=2, dtype=dtype)
        args = case.make()
        x = args.pop("x")
        for first in (0, 8, 1):
            wide = normal(6, 48, seed=3, dtype=dtype)
            wide[:, first : first + 32] = x
            assert torch.equal(layer(wide[:, first : first + 32], args)[0], layer(x, args)[0])
        gate_up = normal(5, 3, 40, seed=4, dtype=dtype)[:, 1]
        with simulated_gpu():
            y = ops.swiglu(gate_up[:, 8:40]), ops.swiglu(gate_up[:, 3:37])
        torch.testing.assert_close(y[0], ops.swiglu(gate_up[:, 8:40]))
        torch.testing.assert_close(y[1], ops.swiglu(gate_up[:, 3:37]))


@pytest.mark.parametrize("tokens", [5, 600])
def test_an_id_that_is_no_expert_shows_in_its_token_only(tokens: int) -> None:
    case = ExpertMlpCase(tokens=tokens, width=8, ffn=8, experts=3, slots=2)
    args = case.make()
    x = args.pop("x")
    good, _ = layer(x, args)
    args["ids"][1, 1], args["ids"][3, 0] = -1, 3
    y, _ = layer(x, args)
    assert y[[1, 3]].isnan().all()
    keep = [t for t in range(tokens) if t not in (1, 3)]
    assert torch.equal(y[keep], good[keep])


def test_nothing_to_add_makes_zeros() -> None:
    x, up, down = torch.ones(2, 8), torch.ones(3, 0, 8), torch.ones(3, 8, 0)
    none = torch.empty(2, 0, dtype=torch.int32), torch.empty(2, 0)
    with simulated_gpu() as gpu:
        y = ops.expert_mlp(x, up, down, torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, 1))
        slotless = ops.expert_mlp(x, torch.ones(3, 4, 8), torch.ones(3, 8, 2), *none)
        dense = ops.swiglu_mlp(x, up[0], down[0])
    assert not gpu.launches
    assert not y.any()
    assert not slotless.any()
    assert not dense.any()


def test_what_the_kernels_do_not_serve_is_refused_before_any_launch() -> None:
    case = ExpertMlpCase(tokens=4, width=32, ffn=16, experts=3, slots=2, dtype=BF16)
    args = case.make()
    many = {name: args[name].repeat(400, 1, 1) for name in ("w_gate_up", "w_down")}
    with simulated_gpu() as gpu:
        with pytest.raises(mn.UnsupportedError, match="cuda: takes no packed weight"):
            ops.expert_mlp(**args | {"w_down": ops.pack(args["w_down"])})
        with pytest.raises(mn.UnsupportedError, match="cuda: has no backward"):
            ops.expert_mlp(**args | {"x": args["x"].clone().requires_grad_()})
        with pytest.raises(mn.UnsupportedError, match="float64 is not one of"):
            ops.swiglu(torch.ones(2, 4, dtype=torch.float64))
        with pytest.raises(mn.UnsupportedError, match="at most 1023 groups, got 1200"):
            ops.expert_mlp(**args | many)
        with pytest.raises(mn.ShapeError, match="w_down"):
            ops.expert_mlp(**args | {"w_down": args["w_down"][:, :8]})
        with pytest.raises(mn.ShapeError, match="ids"):
            ops.expert_mlp(**args | {"ids": args["ids"].long()})
    assert not gpu.launches
