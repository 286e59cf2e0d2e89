"""Logits against mlx-lm's independent implementation, where it is installed.

It has no value scale: o_proj times the scale is the same function, because o_proj is linear. Its
``sliding_window_size`` counts visible keys, ours those before the query: W against W - 1.
"""

import dataclasses

import numpy as np
import pytest
import torch

import mimo_native as mn

mx = pytest.importorskip("mlx.core", reason="mlx is not installed")
mimo = pytest.importorskip("mlx_lm.models.mimo_v2_flash", reason="mlx-lm is not installed")

BOUND = 5e-5

CONFIGS = {
    "tiny": {},
    "sink_on_global_layers_too": {"add_full_attention_sink_bias": True},
    "no_sinks": {"add_swa_attention_sink_bias": False},
    "pattern": {"hybrid_layer_pattern": (1, 0, 1), "moe_layer_freq": (1, 0, 1)},
    "thetas": {"rope_theta": 1234.0, "swa_rope_theta": 99.0},
}


def mlx_model(model: mn.MiMoForCausalLM) -> object:
    raw = model.config.to_dict()
    raw["sliding_window_size"] = raw["sliding_window"] = model.config.window_keys
    raw["attention_value_scale"] = 1.0
    weights = {}
    for name, tensor in model.state_dict().items():
        if ".mtp." in name:
            continue
        if name.endswith("o_proj.weight"):
            tensor = tensor * model.config.attention_value_scale
        weights[name] = mx.array(tensor.float().numpy())
    other = mimo.Model(mimo.ModelArgs.from_dict(raw))
    other.load_weights(list(other.sanitize(weights).items()))
    return other


@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name: str) -> None:
    config = dataclasses.replace(mn.MiMoConfig.tiny(), **CONFIGS[name])
    model = mn.MiMoForCausalLM(config).init_weights(std=0.15, seed=2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("attention_sink_bias"):
                parameter.normal_()
        ids = torch.randint(3, config.vocab_size, (2, 3 * config.window_keys + 5))
        got = model(ids).logits.numpy()
    want = np.array(mlx_model(model)(mx.array(ids.numpy())))
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error <= BOUND, f"logits differ by {error:.2e} of max|logit|"
