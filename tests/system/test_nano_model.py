"""The model inside the package: loads offline, knows its tables, and its heads draft."""

import pytest

import mimo_native as mn
from mimo_native.weights.resolve import resolve_model

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def nano():
    return mn.load("nano")


def test_it_is_small_and_whole() -> None:
    files = list(resolve_model("nano").iterdir())
    assert sum(file.stat().st_size for file in files) < 10_000_000
    assert {"config.json", "tokenizer.json", "README.md"} <= {file.name for file in files}


def test_it_is_a_mimo_model_in_small(nano) -> None:
    config = nano[0].config
    assert config.hybrid_layer_pattern == (0, 1, 1, 1, 1, 0)
    assert config.window_keys == 33
    assert config.add_swa_attention_sink_bias
    assert config.head_dim != config.v_head_dim
    assert config.n_routed_experts > config.num_experts_per_tok > 1
    assert config.num_mtp_layers == 3


@pytest.mark.parametrize("first", [31, 50, 64])
def test_it_counts(nano, first: int) -> None:
    sampling = mn.Sampling(temperature=0, max_tokens=80)
    [done] = mn.generate(nano[0], [f"Count from {first}\n"], sampling=sampling)
    assert done.text.startswith(", ".join(str(first + i) for i in range(12)))


def test_its_heads_draft_what_it_says(nano) -> None:
    sampling = mn.Sampling(temperature=0, max_tokens=120, ignore_eos=True)
    [plain] = mn.generate(nano[0], ["Count from 31\n"], sampling=sampling)
    [chain] = mn.generate(nano[0], ["Count from 31\n"], sampling=sampling, speculative="chain")
    assert chain.token_ids == plain.token_ids
    assert chain.stats.accept_length > 2.5
