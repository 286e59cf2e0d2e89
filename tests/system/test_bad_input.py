"""Wrong input to the model and the engine: a clear error, and nothing has changed.

Hypothesis draws what is wrong and how; the caches are compared bit for bit before and after.
"""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mimo_native as mn
from mimo_native.cache import ModelCache
from mimo_native.errors import CheckpointError, ShapeError, UnsupportedError
from mimo_native.inference import Engine

CONFIG = mn.MiMoConfig.tiny()
ROWS, TOKENS, ROOM = 2, 5, 40
MOE_LAYERS, TOP_K = sum(CONFIG.moe_layer_freq), CONFIG.num_experts_per_tok

few = settings(max_examples=60, deadline=None)


@functools.cache
def a_model() -> mn.MiMoForCausalLM:
    return mn.MiMoForCausalLM(CONFIG).init_weights(std=0.1, seed=1).pack()


@functools.cache
def a_cache() -> ModelCache:
    """Rows of 12 and 12 tokens: beyond the window, so that the rings have wrapped."""
    cache = a_model().new_cache(ROWS, ROOM)
    a_model()(some_ids(ROWS, 12), cache=cache)
    return cache


def forward(ids: Tensor, **options: object) -> object:
    return a_model()(ids, cache=a_cache(), **options)


def some_ids(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, CONFIG.vocab_size, shape, generator=generator)


def contents(cache: ModelCache) -> list[Tensor]:
    layers = (*cache.layers, *cache.mtp_layers)
    stored = [t for layer in layers for row in range(ROWS) for t in layer.unpacked(row)]
    return [cache.lengths.clone(), *stored]


def assert_refused(call, cache: ModelCache | None = None) -> ValueError:
    """The call raises one of ours, whose message says expected and got, and changes nothing."""
    before = contents(cache) if cache is not None else []
    with pytest.raises((ShapeError, UnsupportedError)) as caught:
        call()
    error = caught.value
    if isinstance(error, ShapeError):
        assert error.argument
        assert f"{error.argument}: expected {error.expected}, got {error.got}" in str(error)
    after = contents(cache) if cache is not None else []
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)
    return error


# ---------------------------------------------------------------------- forward

other_shapes = st.lists(st.integers(0, 7), min_size=0, max_size=4).filter(
    lambda shape: shape != [ROWS, TOKENS]
)
wrong_id = st.one_of(st.integers(-(2**40), -1), st.integers(CONFIG.vocab_size, 2**40))


@st.composite
def wrong_ids(draw: st.DrawFn) -> Tensor:
    ids = some_ids(ROWS, TOKENS)
    kind = draw(st.sampled_from(("value", "dtype", "ndim", "device")))
    if kind == "value":
        place = draw(st.integers(0, ids.numel() - 1))
        ids.view(-1)[place] = draw(wrong_id)
    elif kind == "dtype":
        ids = ids.to(
            draw(st.sampled_from((torch.float32, torch.bfloat16, torch.int16, torch.bool)))
        )
    elif kind == "ndim":
        ids = draw(st.sampled_from((ids[0], ids[None], ids.view(-1), ids[0, 0])))
    else:
        ids = ids.to("meta")
    return ids


@few
@given(ids=wrong_ids())
def test_wrong_ids(ids):
    error = assert_refused(lambda: forward(ids), a_cache())
    assert "input_ids" in str(error)


@st.composite
def wrong_option(draw: st.DrawFn) -> tuple[str, dict]:
    """An option of forward beside good input_ids [ROWS, TOKENS] and a cache."""
    name = draw(
        st.sampled_from(
            ("position_ids", "attention_mask", "ancestors", "replay_ids", "labels", "cu_seqlens")
        )
    )
    if name == "cu_seqlens":
        # Not one of these fits two dense rows.
        return name, {name: torch.tensor(draw(st.lists(st.integers(-3, 9), max_size=5)))}
    if name == "replay_ids":
        shape = [MOE_LAYERS, ROWS, TOKENS, TOP_K]
        if draw(st.booleans()):
            values = torch.arange(TOP_K).expand(shape).clone()
            wrong = st.one_of(st.integers(-9, -1), st.integers(CONFIG.n_routed_experts, 99))
            values[0, 0, 0, 0] = draw(wrong)
            return name, {name: values}
        axis = draw(st.integers(0, 3))
        shape[axis] += draw(st.sampled_from((-1, 1)))
        return name, {name: torch.zeros(shape, dtype=torch.int64)}
    if name == "position_ids" and draw(st.booleans()):
        positions = torch.arange(12, 12 + TOKENS).repeat(ROWS, 1)
        place = draw(st.integers(0, positions.numel() - 1))
        positions.view(-1)[place] += draw(st.integers(1, 100)) * draw(st.sampled_from((-1, 1)))
        return name, {name: positions}
    if name == "labels" and draw(st.booleans()):
        labels = some_ids(ROWS, TOKENS)
        labels[0, -1] = draw(wrong_id.filter(lambda value: value != -100))
        return name, {name: labels}
    if name == "ancestors" and draw(st.booleans()):
        # Bit j of node j is missing, or a later node is an ancestor.
        nodes = torch.tensor([1, 3, 5, 9, 17])
        node = draw(st.integers(0, 3))
        nodes[node] = draw(st.sampled_from((0, 1 << (node + 1), int(nodes[node]) | 16 << 1)))
        return name, {name: nodes.repeat(ROWS, 1)}
    shape = draw(other_shapes)
    return name, {name: torch.ones(shape, dtype=torch.int64)}


@few
@given(option=wrong_option())
def test_wrong_options(option):
    name, options = option
    error = assert_refused(lambda: forward(some_ids(ROWS, TOKENS), **options), a_cache())
    assert name in str(error)


@few
@given(tokens=st.integers(ROOM - 12 + 1, ROOM * 3))
def test_no_room_in_the_cache(tokens):
    error = assert_refused(lambda: forward(some_ids(ROWS, tokens)), a_cache())
    assert "max_tokens" in str(error)


@few
@given(rows=st.integers(1, 4).filter(lambda rows: rows != ROWS))
def test_another_number_of_rows(rows):
    error = assert_refused(lambda: forward(some_ids(rows, TOKENS)), a_cache())
    assert "rows" in str(error)


def test_strides_do_not_matter():
    dense = some_ids(ROWS, TOKENS)
    strided = dense.T.contiguous().T
    assert not strided.is_contiguous()
    assert torch.equal(a_model()(strided).logits, a_model()(dense).logits)


@pytest.mark.parametrize("mode", ["some", None, 1])
def test_no_such_logits(mode):
    error = assert_refused(lambda: forward(some_ids(ROWS, TOKENS), logits=mode), a_cache())
    assert "logits" in str(error)


# ---------------------------------------------------------------------- MTP blocks


@few
@given(
    k=st.integers(-3, 6),
    ids_shape=st.tuples(st.integers(1, 3), st.integers(1, 6)),
    hidden_shape=st.lists(st.integers(1, 70), min_size=1, max_size=4),
)
def test_wrong_mtp_input(k, ids_shape, hidden_shape):
    good = (*ids_shape, CONFIG.hidden_size)
    if 0 <= k < CONFIG.num_mtp_layers and tuple(hidden_shape) == good:
        return
    assert_refused(lambda: a_model().mtp(k, some_ids(*ids_shape), torch.zeros(hidden_shape)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_mtp_hidden_of_another_dtype(dtype):
    hidden = torch.zeros(1, 3, CONFIG.hidden_size, dtype=dtype)
    assert_refused(lambda: a_model().mtp(0, some_ids(1, 3), hidden))


# ---------------------------------------------------------------------- engine and sampling

wrong_controls = st.one_of(
    st.fixed_dictionaries({"temperature": st.sampled_from((-0.1, float("nan"), float("inf")))}),
    st.fixed_dictionaries({"top_k": st.integers(-5, -1)}),
    st.fixed_dictionaries({"top_p": st.sampled_from((0.0, -1.0, 1.01, float("nan")))}),
    st.fixed_dictionaries({"min_p": st.sampled_from((-0.1, 1.01, float("nan")))}),
    st.fixed_dictionaries({"repetition_penalty": st.sampled_from((0.0, -1.0, float("inf")))}),
    st.fixed_dictionaries({"presence_penalty": st.sampled_from((float("nan"), float("inf")))}),
    st.fixed_dictionaries({"frequency_penalty": st.sampled_from((float("nan"), float("-inf")))}),
    st.fixed_dictionaries({"max_tokens": st.integers(-5, 0)}),
    st.fixed_dictionaries({"seed": st.sampled_from((2**63, -(2**63) - 1))}),
    st.fixed_dictionaries({"stop": st.just(("",))}),
)


@few
@given(controls=wrong_controls)
def test_wrong_sampling(controls):
    error = assert_refused(lambda: mn.Sampling(**controls))
    assert next(iter(controls)) in str(error)


wrong_prompts = st.one_of(
    st.just([]),
    st.tuples(st.lists(st.integers(0, 255), max_size=5), wrong_id).map(lambda p: [*p[0], p[1]]),
    st.lists(st.integers(0, 255), min_size=30, max_size=60),  # with 20 more: no room
)


@few
@given(prompt=wrong_prompts)
def test_a_wrong_prompt_leaves_the_engine_alone(prompt):
    """What was queued before a refused request ends as if that had never come."""
    sampling = mn.Sampling(temperature=1.0, seed=5, max_tokens=6, ignore_eos=True)

    def run(disturb: bool) -> list[int]:
        engine = Engine(a_model(), max_batch=2, max_tokens=ROOM)
        index = engine.add([1, 2, 3], sampling)
        engine.step()
        if disturb:
            long = mn.Sampling(max_tokens=20)
            assert_refused(lambda: engine.add(prompt, long), engine.cache)
        while engine.has_work:
            engine.step()
        return engine.finished[index].completion().token_ids

    assert run(disturb=True) == run(disturb=False)


@pytest.mark.parametrize("prompts", ["text", ["text"], [[]], [[1], [-1]]])
def test_wrong_prompts_of_generate(prompts):
    assert_refused(lambda: mn.generate(a_model(), prompts, sampling=mn.Sampling(max_tokens=2)))


def test_nan_weights_are_reported_not_sampled():
    """A damaged model must not draw tokens from noise."""
    broken = mn.MiMoForCausalLM(CONFIG).init_weights(std=0.1, seed=1)
    broken.model.norm.weight.data[3] = float("nan")
    error = assert_refused(
        lambda: mn.generate(broken, [[1, 2]], sampling=mn.Sampling(max_tokens=2))
    )
    assert "nan" in error.got


def test_unknown_checkpoints(tmp_path):
    for source in (tmp_path, tmp_path / "missing.gguf", "no-such-model"):
        with pytest.raises(CheckpointError, match="expected"):
            mn.load(source)
