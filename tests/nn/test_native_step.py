"""The native pass has the bits of the modules, and steps aside where somebody asks for these."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import mimo_native as mn
from mimo_native.cache import ModelCache
from mimo_native.nn import Attention, Output, RMSNorm
from mimo_native.nn.native import NativeDecoder

TINY = mn.MiMoConfig.tiny()
LLAMA = replace(
    TINY,
    hybrid_layer_pattern=(0, 0),
    moe_layer_freq=(0, 0),
    window_keys=None,
    add_swa_attention_sink_bias=False,
    attention_value_scale=1.0,
    partial_rotary_factor=1.0,
    tie_word_embeddings=True,
    num_mtp_layers=0,
)
CONFIGS = {
    "tiny": TINY,
    "llama": LLAMA,
    "dense": replace(TINY, moe_layer_freq=(0,) * TINY.num_hidden_layers),
    "no_mtp_window_1": replace(TINY, num_mtp_layers=0, window_keys=1),
    "ring_of_3_blocks": replace(TINY, window_keys=130),
    "global_sinks": replace(TINY, add_full_attention_sink_bias=True),
    "groups_unnormalised": replace(
        TINY, n_group=4, topk_group=2, norm_topk_prob=False, routed_scaling_factor=2.5
    ),
    "odd_sizes": replace(TINY, hidden_size=72, moe_intermediate_size=40, intermediate_size=88),
}
ROW = torch.linspace(-1, 1, TINY.hidden_size, dtype=torch.bfloat16)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def make_model(
    config: mn.MiMoConfig, dtype: torch.dtype, format: str | dict[str, str] | None = None
) -> mn.MiMoForCausalLM:
    model = mn.MiMoForCausalLM(config).init_weights(std=0.15, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.ndim == 1:
                mean = 1.0 if "norm" in name else 0.0
                tensor.normal_(mean, 0.3, generator=generator)
    return model.to(dtype).pack(format)


@pytest.fixture(scope="module", params=CONFIGS)
def config(request: pytest.FixtureRequest) -> mn.MiMoConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="module", params=DTYPES)
def model(request: pytest.FixtureRequest, config: mn.MiMoConfig) -> mn.MiMoForCausalLM:
    return make_model(config, DTYPES[request.param])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name for every pass that ran in one call."""
    names: list[str] = []
    for name in ("run", "run_block"):
        real = getattr(NativeDecoder, name)

        def counted(self, *args, name=name, real=real):
            names.append(name)
            return real(self, *args)

        monkeypatch.setattr(NativeDecoder, name, counted)
    return names


@pytest.fixture
def by_modules(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], object]:
    """Calls a function while nothing runs in one call."""

    def run(work: Callable[[], object]) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(NativeDecoder, "serves", lambda *args: False)
            return work()

    return run


Chunk = tuple[list[int], Tensor | None]  # tokens of every row, and ancestors of a draft tree


def tree_masks(rows: int) -> Tensor:
    """Root, two children, a grandchild under the first, for every row."""
    return torch.tensor([1, 0b11, 0b101, 0b1011]).repeat(rows)


def session(
    model: mn.MiMoForCausalLM, rows: int, chunks: list[Chunk], kv_format: str | None = None
) -> Iterator[Output | Tensor]:
    """Feeds ragged chunks; every output, then all that the cache holds."""
    ids = torch.Generator().manual_seed(7)
    cache = model.new_cache(rows, 400, kv_format=kv_format)
    for counts, masks in chunks:
        edges = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0).int()
        total = int(edges[-1])
        tokens = torch.randint(0, model.config.vocab_size, (1, total), generator=ids)
        options = {"cu_seqlens": edges, "cache": cache}
        if masks is not None:
            options["ancestors"] = masks[None]
        out = model(tokens, **options)
        yield out
        for k in range(model.config.num_mtp_layers if masks is None else 0):
            lengths = cache.mtp_lengths(k)
            if bool((lengths + edges.diff() == cache.lengths).all()):
                yield model.mtp(k, tokens.roll(1), out.hidden, cu_seqlens=edges, cache=cache)
                cache.commit_mtp(k)
        if masks is not None:
            path = torch.cat([edges[:-1] + node for node in (0, 1, 3)]).long()
            cache.commit(path.sort().values)
    for row in range(rows):
        for keys, values, _ in cache.unpacked(row):
            yield keys
            yield values


def assert_same(native: list[object], modules: list[object]) -> None:
    assert len(native) == len(modules)
    for got, want in zip(native, modules, strict=True):
        if isinstance(got, Tensor):
            assert torch.equal(got, want)
            continue
        assert torch.equal(got.hidden, want.hidden)
        assert torch.equal(got.logits, want.logits)
        assert (got.routing is None) == (want.routing is None)
        assert want.routing is None or torch.equal(got.routing, want.routing)


DECODE: list[Chunk] = [([1, 1, 1], None)]
SESSION: list[Chunk] = [([70, 3, 0], None), ([1, 40, 130], None), *DECODE * 4, ([0, 1, 2], None)]
TREE: list[Chunk] = [([66, 5], None), ([4, 4], tree_masks(2)), ([1, 1], None)]


@torch.inference_mode()
@pytest.mark.parametrize(("rows", "chunks"), [(3, SESSION), (2, TREE)], ids=["ragged", "tree"])
def test_same_bits(model, calls, by_modules, rows, chunks) -> None:
    native = list(session(model, rows, chunks))
    assert calls.count("run") == len(chunks)
    assert ("run_block" in calls) == (model.config.num_mtp_layers > 0)
    calls.clear()
    modules = by_modules(lambda: list(session(model, rows, chunks)))
    assert not calls
    assert_same(native, modules)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_at_every_level_and_thread_count(isa, dtype, by_modules) -> None:
    model = make_model(TINY, DTYPES[dtype])
    want = by_modules(lambda: list(session(model, 3, SESSION)))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert_same(list(session(model, 3, SESSION)), want)
        torch.set_num_threads(1)


FORMATS = ["int8_row", "int8_32", "int4_32", "e4m3_128x128", "mxfp4", "int8_row_a8", "int8_32_a8"]
MIXED = {"attention": "int8_row", "experts": "mxfp4", "dense": "int4_32", "head": "int8_32"}


@torch.inference_mode()
@pytest.mark.parametrize("format", [*FORMATS, MIXED], ids=[*FORMATS, "mixed"])
@pytest.mark.parametrize("config", [TINY, LLAMA], ids=["tiny", "llama"])
def test_same_bits_in_every_weight_format(config, format, calls, by_modules) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128}
    model = make_model(replace(config, **sizes), torch.bfloat16, format)
    for rows, chunks in ((3, SESSION), (2, TREE)):
        calls.clear()
        native = list(session(model, rows, chunks))
        assert calls.count("run") == len(chunks)
        assert ("run_block" in calls) == (config.num_mtp_layers > 0)
        modules = by_modules(lambda rows=rows, chunks=chunks: list(session(model, rows, chunks)))
        assert_same(native, modules)


@torch.inference_mode()
@pytest.mark.parametrize("kv_format", ["int8", "e4m3"])
def test_same_bits_in_every_cache_format(kv_format, calls, by_modules) -> None:
    model = make_model(TINY, torch.bfloat16)
    native = list(session(model, 3, SESSION, kv_format))
    assert calls.count("run") == len(SESSION)
    assert_same(native, by_modules(lambda: list(session(model, 3, SESSION, kv_format))))


# ------------------------------------------------------------------ when the modules run


@pytest.fixture
def small() -> mn.MiMoForCausalLM:
    return make_model(TINY, torch.bfloat16)


def decode(model: mn.MiMoForCausalLM, **options) -> Output:
    cache = model.new_cache(1, 64)
    model(torch.arange(5, 25)[None], cache=cache, **options)
    return model(torch.tensor([[7]]), cache=cache, **options)


def test_hooks_are_called(small, calls) -> None:
    want = decode(small)
    assert calls == ["run", "run"]
    seen = []
    layer = small.model.layers[1]
    for module in (layer, layer.self_attn.o, layer.mlp, small.model.norm):
        hook = module.register_forward_hook(lambda module, args, out: seen.append(module))
        assert torch.equal(decode(small).logits, want.logits)
        assert len(calls) == 2
        assert seen
        assert all(s is module for s in seen)
        hook.remove()
        seen.clear()
    decode(small)
    assert len(calls) == 4


def test_replaced_forwards_are_called(small, calls, monkeypatch) -> None:
    decode(small)
    attention = small.model.layers[0].self_attn
    seen = []

    def forward(*args):
        seen.append(args)
        return Attention.forward(attention, *args)

    attention.forward = forward
    decode(small)
    assert len(seen) == 2
    del attention.forward
    real = RMSNorm.forward
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: seen.append(x) or real(self, x))
    decode(small)
    assert len(seen) > 4
    assert len(calls) == 2


def test_a_replaced_module_is_used(small, calls) -> None:
    before = decode(small).logits
    small.model.layers[0].input_layernorm = nn.Identity()
    assert not torch.equal(decode(small).logits, before)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.model.norm.weight.data.mul_(2),
        lambda m: setattr(
            m.model.layers[0].input_layernorm.weight, "data", torch.rand(TINY.hidden_size)
        ),
        lambda m: setattr(
            m.model.layers[1].post_attention_layernorm,
            "weight",
            torch.nn.Parameter(
                torch.rand(TINY.hidden_size, dtype=torch.bfloat16), requires_grad=False
            ),
        ),
        lambda m: m.model.layers[1].mlp.gate.e_score_correction_bias.normal_(),
        lambda m: m.model.layers[0].self_attn.o.replace(
            mn.ops.pack(m.model.layers[0].self_attn.o.weight.unpack() * 2)
        ),
    ],
    ids=["in place", "data", "parameter", "buffer", "packed weight"],
)
@torch.no_grad()
def test_changed_weights_are_used(small, calls, by_modules, change) -> None:
    before = decode(small).logits
    change(small)
    got = decode(small).logits
    assert len(calls) == 4
    assert torch.equal(got, by_modules(lambda: decode(small).logits))
    assert not torch.equal(got, before)


def test_unpacked_weights_and_gradients_go_through_the_modules(small, calls) -> None:
    want = decode(small).logits
    calls.clear()
    small.unpack()
    with torch.no_grad():
        assert torch.equal(decode(small).logits, want)
    small.pack()
    decode(small)
    assert calls == ["run", "run"]
    small.model.norm.weight.requires_grad_(True)
    with torch.no_grad():
        decode(small)
    assert len(calls) == 4
    assert decode(small).logits.requires_grad
    assert len(calls) == 4


def test_the_reference_backend_is_respected(small, calls) -> None:
    with mn.backends.use("reference"):
        decode(small)
    assert not calls


# ------------------------------------------------------------------ errors, copies, memory


def contents(cache: ModelCache) -> list[Tensor]:
    return [t for row in range(cache.rows) for layer in cache.unpacked(row) for t in layer]


def test_an_error_leaves_the_cache_as_it_was(small, calls) -> None:
    cache = small.new_cache(1, 64)
    small(torch.arange(5, 35)[None], cache=cache)
    before = contents(cache)
    small.model.layers[1].post_attention_layernorm.weight.data[0] = float("nan")
    with pytest.raises(mn.ShapeError, match="NaN"):
        small(torch.tensor([[7]]), cache=cache)
    assert len(calls) == 2
    assert cache.lengths.tolist() == [30]
    assert all(torch.equal(a, b) for a, b in zip(contents(cache), before, strict=True))


def test_copies_have_plans_of_their_own(small, calls) -> None:
    before = decode(small).logits
    twin = copy.deepcopy(small)
    twin.model.norm.weight.data.mul_(2)
    assert torch.equal(decode(small).logits, before)
    assert not torch.equal(decode(twin).logits, before)
    assert len(calls) == 6


def test_a_model_is_freed(small) -> None:
    decode(small)
    model = make_model(LLAMA, torch.bfloat16)
    decode(model)
    cache = model.new_cache(1, 64)
    model(torch.tensor([[7]]), cache=cache)
    gone = [weakref.ref(m) for m in (model, model.model.layers[0], cache)]
    del model, cache
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]


def test_working_memory_does_not_grow(small) -> None:
    cache = small.new_cache(1, 200)
    small(torch.arange(5, 35)[None], cache=cache)
    first = _resident()
    for token in range(150):
        small(torch.tensor([[5 + token % 50]]), cache=cache)
    assert _resident() - first < 2 << 20


def _resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
