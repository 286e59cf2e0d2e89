"""transformers reads what we write as the same model, or says that it cannot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from transformers import AutoConfig, AutoModelForCausalLM, MiMoV2FlashConfig

from mimo_native import MiMoConfig
from mimo_native.weights import expected_tensors

from .cases import SMOLLM2, V2_FLASH
from .strategies import configs


def seen_by_transformers(config: MiMoConfig, directory: Path):
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    return AutoConfig.from_pretrained(directory)


@pytest.mark.parametrize("window_keys", [1, 127, 128, 129])
def test_transformers_sees_the_same_window_and_layers(window_keys: int, tmp_path: Path) -> None:
    config = replace(MiMoConfig.tiny(), window_keys=window_keys)
    theirs = seen_by_transformers(config, tmp_path)
    assert isinstance(theirs, MiMoV2FlashConfig)
    assert theirs.sliding_window == window_keys
    kinds = {"global": "full_attention", "sliding": "sliding_attention"}
    layers = [config.layer(i) for i in range(config.num_hidden_layers)]
    assert theirs.layer_types == [kinds[layer.kind] for layer in layers]
    assert theirs.mlp_layer_types == ["sparse" if layer.moe else "dense" for layer in layers]
    for layer in layers:
        rope = theirs.rope_parameters[kinds[layer.kind]]
        assert rope["rope_theta"] == layer.rope_theta
        assert int(theirs.head_dim * rope["partial_rotary_factor"]) == layer.rotary_dim
        kv_heads = theirs.num_key_value_heads * (2 if layer.kind == "sliding" else 1)
        assert kv_heads == layer.num_kv_heads
    assert theirs.attention_value_scale == config.attention_value_scale
    assert theirs.rms_norm_eps == config.rms_norm_eps


@pytest.mark.parametrize("window_keys", [1, 127, 128, 129])
def test_a_config_that_transformers_wrote_again_is_the_same(
    window_keys: int, tmp_path: Path
) -> None:
    config = replace(MiMoConfig.tiny(), window_keys=window_keys, rms_norm_eps=1e-6)
    seen_by_transformers(config, tmp_path).save_pretrained(tmp_path)
    assert MiMoConfig.from_pretrained(tmp_path) == config


@pytest.mark.parametrize("window_keys", [1, 8, 129])
def test_a_config_of_transformers_own(window_keys: int, tmp_path: Path) -> None:
    MiMoV2FlashConfig(sliding_window=window_keys, num_hidden_layers=7).save_pretrained(tmp_path)
    config = MiMoConfig.from_pretrained(tmp_path)
    assert config.hybrid_layer_pattern == (0, 1, 1, 1, 1, 0, 1)
    assert config.layer(1).window_keys == window_keys
    assert (config.layer(0).sink, config.layer(1).sink) == (False, True)
    assert (config.layer(0).num_kv_heads, config.layer(1).num_kv_heads) == (4, 8)
    assert (config.layer(0).rope_theta, config.layer(1).rope_theta) == (5e6, 1e4)
    assert config.attention_value_scale == 0.707


def test_the_released_file_means_the_same_to_both(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(V2_FLASH))
    theirs = AutoConfig.from_pretrained(tmp_path)
    ours = MiMoConfig.from_pretrained(tmp_path)
    assert theirs.sliding_window == ours.window_keys == 129
    assert [int(t == "sliding_attention") for t in theirs.layer_types] == list(
        ours.hybrid_layer_pattern
    )


def test_llama_type_model_stays_one(tmp_path: Path) -> None:
    config = MiMoConfig.from_dict(SMOLLM2, num_mtp_layers=2, window_keys=65)
    theirs = seen_by_transformers(config, tmp_path)
    assert theirs.model_type == "llama"
    assert theirs.rope_parameters["rope_theta"] == 1e5
    assert theirs.head_dim == 64
    theirs.save_pretrained(tmp_path)
    assert MiMoConfig.from_pretrained(tmp_path) == config


SLIDING = MiMoConfig.tiny()
LLAMA = MiMoConfig.from_dict(SMOLLM2)


@pytest.mark.parametrize(
    ("config", "changes", "model_type"),
    [
        (SLIDING, {}, "mimo_v2_flash"),
        (SLIDING, {"attention_value_scale": 1.0}, "mimo_v2_flash"),
        (SLIDING, {"swa_rope_theta": 3.0, "swa_partial_rotary_factor": 1.0}, "mimo_v2_flash"),
        (SLIDING, {"swa_num_attention_heads": 32}, "mimo_v2"),
        (SLIDING, {"swa_num_key_value_heads": 4}, "mimo_v2"),
        (SLIDING, {"swa_head_dim": 48}, "mimo_v2"),
        (SLIDING, {"swa_v_head_dim": 32}, "mimo_v2"),
        (SLIDING, {"add_swa_attention_sink_bias": False}, "mimo_v2"),
        (SLIDING, {"add_full_attention_sink_bias": True}, "mimo_v2"),
        (SLIDING, {"attention_projection_layout": "fused_qkv"}, "mimo_v2"),
        (LLAMA, {}, "llama"),
        (LLAMA, {"attention_value_scale": 0.5}, "mimo_v2_flash"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "mimo_v2_flash"),
        (LLAMA, {"v_head_dim": 32}, "mimo_v2_flash"),
        (LLAMA, {"add_full_attention_sink_bias": True}, "mimo_v2"),
        (LLAMA, {"swa_partial_rotary_factor": 0.5}, "mimo_v2_flash"),
        (LLAMA, {"hidden_size": 575}, "mimo_v2_flash"),
    ],
)
def test_model_type_promises_no_more_than_transformers_keeps(
    config: MiMoConfig, changes: dict, model_type: str
) -> None:
    """One step beyond what its fixed rules can say, the model type is one that it lacks."""
    assert replace(config, **changes).to_dict()["model_type"] == model_type


@settings(max_examples=80, deadline=None)
@given(config=configs())
def test_transformers_builds_this_model_or_none(tmp_path_factory, config: MiMoConfig) -> None:
    """Its parameters have the shapes of ours, or it does not know the model type."""
    directory = tmp_path_factory.mktemp("config")
    written = json.dumps({**config.unquantized().to_dict()})
    assert MiMoConfig.from_dict(config.to_dict()) == config
    (directory / "config.json").write_text(written)
    if json.loads(written)["model_type"] == "mimo_v2":
        with pytest.raises((ValueError, KeyError), match="mimo_v2"):
            AutoConfig.from_pretrained(directory)
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    ours = {
        name: spec.shape
        for name, spec in expected_tensors(config.unquantized()).items()
        if spec.component != "mtp"
    }
    assert hub_shapes(model) == ours
    for i in range(config.num_hidden_layers):
        layer, theirs = config.layer(i), model.model.layers[i].self_attn
        if model.config.model_type == "mimo_v2_flash":
            assert theirs.sliding_window == layer.window_keys
            assert theirs.v_scale == layer.value_scale
            assert (theirs.sinks is not None) == layer.sink
        assert theirs.scaling == layer.softmax_scale


def hub_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The model's tensors under the names and in the pieces of a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        name = name.replace(".sinks", ".attention_sink_bias")
        shape = tuple(tensor.shape)
        if name.endswith("experts.gate_up_proj"):
            for e in range(shape[0]):
                for part in ("gate_proj", "up_proj"):
                    one = name.replace("gate_up_proj", f"{e}.{part}.weight")
                    shapes[one] = (shape[1] // 2, shape[2])
        elif name.endswith("experts.down_proj"):
            for e in range(shape[0]):
                shapes[name.replace("down_proj", f"{e}.down_proj.weight")] = shape[1:]
        elif not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            shapes[name] = shape
    return shapes
