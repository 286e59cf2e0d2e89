"""The oracle itself: against transformers on tiny files, and the real model's known answer."""

import numpy as np
import pytest
import torch

from ..weights.gguf_files import Llama, hub_weights, write
from .llama_numpy import LlamaNumpy, greedy, perplexity


@pytest.mark.parametrize(
    "model", [Llama(), Llama(hidden=288, heads=9, kv_heads=3, tied=False)], ids=str
)
def test_agrees_with_transformers(tmp_path, model):
    from transformers import LlamaConfig, LlamaForCausalLM

    # At unit scale the scores reach hundreds and float32 itself no longer agrees with float32.
    weights = {name: 0.2 * weight for name, weight in hub_weights(model).items()}
    config = LlamaConfig(
        vocab_size=model.vocab,
        hidden_size=model.hidden,
        intermediate_size=model.inner,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=model.tied,
        attention_bias=False,
    )
    peer = LlamaForCausalLM(config).eval()
    state = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    peer.tie_weights()
    ids = np.random.default_rng(3).integers(0, model.vocab, 50).tolist()
    with torch.no_grad():
        want = peer(torch.tensor([ids])).logits[0].numpy()
    got = LlamaNumpy(write(tmp_path / "m.gguf", model, weights=weights)).logits(ids)
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_perplexity_of_a_uniform_and_a_certain_guess():
    ids = [3, 1, 0, 2]
    assert perplexity(np.zeros((4, 7), np.float32), ids) == pytest.approx(7)
    certain = np.full((4, 7), -50, np.float32)
    certain[np.arange(3), ids[1:]] = 50
    assert perplexity(certain, ids) == pytest.approx(1)


def test_the_real_model_knows_a_capital(smollm2_oracle):
    # "The capital of France is"; the answer is " Paris".
    assert greedy(smollm2_oracle, [504, 3575, 282, 4649, 314], 1) == [7042]
