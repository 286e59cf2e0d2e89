"""A model over caches of 8-bit codes: bits do not depend on the chunks, bytes are as foreseen."""

from dataclasses import replace

import pytest
import torch

from mimo_native import (
    MiMoConfig,
    MiMoForCausalLM,
    Sampling,
    ShapeError,
    UnsupportedError,
    generate,
)
from mimo_native.cache import ModelCache
from mimo_native.weights.fit import fit

CONFIG = replace(MiMoConfig.tiny(), num_mtp_layers=1)
FORMATS = ("bf16", "int8", "e4m3")


@pytest.fixture(scope="module")
def model() -> MiMoForCausalLM:
    return MiMoForCausalLM(CONFIG).init_weights(std=0.1, seed=3).bfloat16().pack()


@pytest.mark.parametrize("kv_format", FORMATS)
def test_nbytes_are_those_that_fit_foresees(kv_format: str) -> None:
    cache = ModelCache.for_config(CONFIG, 3, 200, kv_format=kv_format)
    assert cache.nbytes == fit(CONFIG, context=200, batch=3, kv_format=kv_format).cache_bytes
    sliding = [layer for layer in cache.layers if layer.is_ring]
    assert sliding
    assert all(layer.keys.dtype is torch.bfloat16 for layer in sliding)


@pytest.mark.parametrize("kv_format", ["int8", "e4m3"])
@torch.no_grad()
def test_logits_do_not_depend_on_the_chunks(model: MiMoForCausalLM, kv_format: str) -> None:
    ids = torch.randint(0, CONFIG.vocab_size, (1, 150), generator=torch.Generator().manual_seed(1))
    want = model(ids, cache=model.new_cache(1, 150, kv_format=kv_format)).logits
    for size in (1, 7, 64):
        cache = model.new_cache(1, 150, kv_format=kv_format)
        parts = [model(part, cache=cache).logits for part in ids.split(size, dim=1)]
        assert torch.cat(parts, 1).equal(want), f"chunks of {size}"
    plain = model(ids, cache=model.new_cache(1, 150)).logits
    assert not plain.equal(want)  # the format does something ...
    assert (plain - want).square().mean().sqrt() < 0.05 * plain.std()  # ... but little


def test_generation_takes_the_format(model: MiMoForCausalLM) -> None:
    options = {"sampling": Sampling(max_tokens=5, temperature=0.0, ignore_eos=True)}
    alone = generate(model, [[1, 2, 3]], kv_format="int8", **options)
    batch = generate(model, [[4] * 40, [1, 2, 3]], kv_format="int8", **options)
    assert alone[0].token_ids == batch[1].token_ids
    with pytest.raises(UnsupportedError, match="int3"):
        generate(model, [[1]], kv_format="int3", **options)


def test_formats_need_bfloat16() -> None:
    with pytest.raises(UnsupportedError, match="float32"):
        ModelCache.for_config(CONFIG, 1, 10, dtype=torch.float32, kv_format="int8")
    with pytest.raises(ShapeError, match="kv_format"):
        fit(CONFIG, dtype="float32", kv_format="int8")
    with pytest.raises(ShapeError, match="int3"):
        fit(CONFIG, kv_format="int3")
