"""The attention kernels on the simulated GPU: every case, under every checker."""

import importlib.util

import pytest
import torch

import mimo_native as mn
from mimo_native import ops
from mimo_native.testing import SimulatedGpu, simulated_gpu
from mimo_native.testing.cubin import kernel_resources

from ..case import check_case
from .caches import filled_cache
from .cases import CASES, AttentionCase, CachedCase, VarlenCase

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
BF16 = torch.bfloat16
HEADS = {"heads": 8, "groups": 1, "qk": 24, "v": 16}
TRUE = {"heads": 8, "groups": 1, "qk": 192, "v": 128}


def run(case, schedule: str = "forward", **options: object) -> SimulatedGpu:
    """Check a case against its bound; the GPU that ran it."""
    made = []

    def on_gpu(*, layer_cache=None, **args: object) -> object:
        with simulated_gpu(capability=(8, 0), schedule=schedule, **options) as gpu:
            made.append(gpu)
            if layer_cache is not None:
                stored = layer_cache.keys, layer_cache.values
                args["layer_cache"] = filled_cache(*stored, case.window)
                gpu.launches.clear()
            return getattr(ops, case.op)(**args)

    check_case(case, on_gpu)
    return made[0]


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_is_within_its_bound(case, schedule: str) -> None:
    run(case, schedule, metrics=False)


def plan(**changes: int) -> dict[str, int]:
    from mimo_native import _cuda_sim

    sizes = {"sequences": 1, "tokens": 1, "longest": 1, "most_keys": 1000, "q_heads": 64,
             "kv_heads": 8, "dim_qk": 192, "dim_v": 128, "window": 1 << 30,
             "element": 2, "multiprocessors": 108}  # fmt: skip
    return _cuda_sim.attention_plan(**{**sizes, **changes})


def test_plans() -> None:
    decode = plan(tokens=16, sequences=16, most_keys=8192)
    assert (decode["row_warps"], decode["tile_tokens"], decode["tiles"]) == (1, 2, 16)
    assert decode["splits"] == 1  # 128 blocks
    alone = plan(most_keys=8192)
    assert (alone["tiles"], alone["splits"]) == (1, 27)  # 216 blocks on 108 multiprocessors
    assert plan(most_keys=8192, window=129)["splits"] == 1
    prefill = plan(tokens=4096, longest=4096, most_keys=4096)
    assert (prefill["row_warps"], prefill["tile_tokens"], prefill["tiles"]) == (4, 8, 512)
    assert prefill["released_dims"]
    # Two blocks of a multiprocessor's 164 KiB.
    assert prefill["shared_bytes"] <= 82 * 1024
    ragged = plan(tokens=100, sequences=7, longest=100)
    assert ragged["tiles"] == 100 // 8 + 7
    shared = plan(q_heads=64, kv_heads=1)
    assert (shared["row_warps"], shared["tile_tokens"]) == (4, 1)
    assert not plan(dim_qk=64, dim_v=64)["released_dims"]
    exact = plan(tokens=4096, longest=4096, element=4)
    assert (exact["row_warps"], exact["tile_tokens"], exact["released_dims"]) == (1, 2, False)


LONG = [
    AttentionCase(queries=70, **TRUE, dtype=BF16),
    AttentionCase(queries=70, heads=8, groups=1, qk=64, v=64, dtype=BF16),
    CachedCase(committed=(1100,), new=(1,), **TRUE, dtype=BF16),
    CachedCase(committed=(1100,), new=(9,), tree=True, **TRUE, dtype=BF16),
    CachedCase(committed=(1100,), new=(2,), **TRUE),
    AttentionCase(queries=5, heads=20, groups=1, qk=64, v=64),
]


@pytest.mark.parametrize("case", LONG, ids=str)
def test_no_bank_conflicts(case) -> None:
    gpu = run(case, multiprocessors=8)
    splits = isinstance(case, CachedCase)
    assert len(gpu.launches) == 1 + splits
    for launch in gpu.launches:
        assert launch.stats.bank_conflicts == 0, launch.stats
    if splits:
        assert gpu.launches[0].grid[2] > 1


@pytest.mark.parametrize("case", LONG[2:5], ids=str)
def test_splits_change_nothing_but_roundings(case) -> None:
    splits = []
    for multiprocessors in (0, 2, 3, 64):
        gpu = run(case, multiprocessors=multiprocessors, metrics=False)
        assert len(gpu.launches) == (2 if multiprocessors else 1)
        splits.append(gpu.launches[0].grid[2])
    assert len(set(splits)) > 2


def test_results_do_not_depend_on_the_schedule() -> None:
    case = VarlenCase(q_lens=(70, 3), window=33, sink="spread", dtype=BF16, **TRUE)
    args = case.make()
    results = []
    for seed in range(4):
        with simulated_gpu(capability=(8, 0), seed=seed, metrics=False):
            results.append(ops.attention_varlen(**args))
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


def test_strides_are_honoured() -> None:
    case = AttentionCase(queries=20, batch=2, window=9, sink="spread", dtype=BF16, **HEADS)
    args = case.make()
    q, k, v = args["q"], args["k"], args["v"]
    qkv = torch.cat([t.flatten(-2) for t in (q, k, v)], dim=-1)
    parts = qkv.split([t.shape[-2] * t.shape[-1] for t in (q, k, v)], dim=-1)
    fused = [p.unflatten(-1, t.shape[-2:]) for p, t in zip(parts, (q, k, v), strict=True)]
    heads_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    with simulated_gpu(capability=(8, 0), metrics=False):
        want = ops.attention(**args)
        for spread in (fused, heads_first):
            views = dict(zip(("q", "k", "v"), spread, strict=True))
            assert all(map(torch.equal, ops.attention(**args | views), want))
        one = {name: args[name][:1].expand(2, -1, -1, -1) for name in ("q", "k", "v")}
        o, _ = ops.attention(**args | one)
    assert torch.equal(o, want[0][:1].expand_as(o))


def test_rows_that_see_nothing() -> None:
    q, k, v = (torch.randn(1, n, 2, 16).to(BF16) for n in (9, 3, 3))
    for sink in (None, torch.tensor([0.5, -3.0])):
        with simulated_gpu(capability=(8, 0)):
            o, lse = ops.attention(q, k, v, sink=sink, return_lse=True)
        assert not o[0, :6].any()
        assert o[0, 6:].any(-1).all()
        blind = torch.full((2,), -torch.inf) if sink is None else sink
        torch.testing.assert_close(lse[0, :, :6], blind[:, None].expand(2, 6))


@pytest.mark.parametrize("window", [1, 2, 64, 65, 129])
def test_a_key_changes_its_window_and_no_other_row(window: int) -> None:
    n, committed = 150, 90
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, h, 24, generator=gen).to(BF16) for h in (2, 1, 1))

    def call(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with simulated_gpu(capability=(8, 0), schedule="forward", metrics=False):
            cache = filled_cache([k[:committed]], [v[:committed]], window)
            new = (t[None, committed:] for t in (q, k, v))
            return ops.attention_cached(*new, cache, window_keys=window)[0]

    before = call(k, v)
    for j in {0, 63, 64, committed - 1, committed, n - window - 1, n - window, n - 1}:
        if not 0 <= j < n:
            continue
        other_k, other_v = k.clone(), v.clone()
        other_k[j] += 1
        other_v[j] -= 1
        changed = (call(other_k, other_v) != before).flatten(1).any(1)
        rows = torch.arange(committed, n)
        assert torch.equal(changed, (rows >= j) & (rows < j + window)), f"key {j}"


def _dense(**changes: object) -> dict[str, object]:
    q, k, v = (torch.randn(1, 5, h, 16).to(BF16) for h in (4, 2, 2))
    return {"q": q, "k": k, "v": v, **changes}


def _misaligned(n: int, heads: int) -> torch.Tensor:
    return torch.zeros(n * heads * 16 + 1, dtype=BF16)[1:].view(1, n, heads, 16)


REFUSED = {
    "float64": ({n: torch.ones(1, 2, 2, 16).double() for n in "qkv"}, "float64 is not one of"),
    "odd head dims": ({n: torch.ones(1, 2, 2, 20, dtype=BF16) for n in "qkv"}, "multiples of 8"),
    "wide values": ({"v": torch.ones(1, 5, 2, 136, dtype=BF16)}, "up to 256/128"),
    "many query heads": ({"q": torch.ones(1, 5, 130, 16, dtype=BF16)}, "65 query heads"),
    "misaligned": ({"k": _misaligned(5, 2)}, "rows of k are not aligned"),
    "a gradient": ({"q": torch.ones(1, 5, 4, 16, dtype=BF16, requires_grad=True)}, "no backward"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_with_reasons_before_any_launch(name: str) -> None:
    changes, reason = REFUSED[name]
    with simulated_gpu() as gpu, pytest.raises(mn.UnsupportedError, match=reason) as caught:
        ops.attention(**_dense(**changes))
    assert "cuda: " in str(caught.value)
    assert not gpu.launches


def test_wrong_shapes_are_refused_before_any_launch() -> None:
    lens = torch.tensor([1, 2])
    for change, argument in (
        ({"kv_lens": lens}, "kv_lens"),
        ({"sink": torch.zeros(3)}, "sink"),
        ({"window_keys": 0}, "window_keys"),
        ({"k": torch.ones(1, 4, 2, 16, dtype=BF16)}, "v"),
    ):
        with simulated_gpu() as gpu, pytest.raises(mn.ShapeError) as caught:
            ops.attention(**_dense(**change))
        assert caught.value.argument == argument
        assert not gpu.launches


def test_cached_calls_that_do_not_fit_are_refused() -> None:
    k, v = torch.randn(70, 2, 16).to(BF16), torch.randn(70, 2, 16).to(BF16)
    new = [torch.randn(1, 2, h, 16).to(BF16) for h in (4, 2, 2)]
    tall = [torch.randn(1, 65, h, 16).to(BF16) for h in (4, 2, 2)]
    for_cpu = filled_cache([k], [v], 65)
    with simulated_gpu() as gpu:
        cache = filled_cache([k], [v], 65)
        gpu.launches.clear()
        for args, options, error in (
            ((*new, for_cpu), {}, "made for the CPU"),
            ((*new, cache), {"q_positions": torch.tensor([[70, 71]])}, "q_positions"),
            ((*new, cache), {"window_keys": 66}, "window_keys"),
            ((*new, cache), {"window_keys": None}, "window_keys"),
            ((*tall, cache), {"ancestors": torch.ones(1, 65, dtype=torch.int64)}, "64 nodes"),
            ((*new, cache), {"ancestors": torch.ones(2, dtype=torch.int64)}, "ancestors"),
        ):
            with pytest.raises((mn.UnsupportedError, mn.ShapeError), match=error):
                ops.attention_cached(*args, **{"window_keys": 65, **options})
        assert not gpu.launches
    with pytest.raises(mn.UnsupportedError, match="made for a GPU"):
        ops.attention_cached(*new, cache, window_keys=65)


def test_registers_leave_room_for_two_blocks() -> None:
    spec = importlib.util.find_spec("mimo_native._cuda")
    if spec is None or spec.origin is None:
        pytest.skip("this build has no _cuda")
    found = [k for k in kernel_resources(spec.origin) if "attention" in k.name]
    assert found
    for kernel in found:
        assert not kernel.stack_bytes, kernel
        assert 2 * 128 * kernel.registers <= 65_536, kernel
