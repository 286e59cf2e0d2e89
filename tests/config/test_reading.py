"""Every spelling of config.json gives the model that it means, or an error saying what is wrong."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mimo_native as mn
from mimo_native import CheckpointError, MiMoConfig, ShapeError, UnsupportedError
from mimo_native.config import LayerConfig, QuantizationConfig

from .cases import RELEASES, SMOLLM2, V2_5_PRO, V2_6_FLASH, V2_FLASH


def test_v2_flash_equals_its_preset() -> None:
    read = MiMoConfig.from_dict(V2_FLASH, num_mtp_layers=3)
    assert replace(read, quantization=None) == MiMoConfig.mimo_v2_flash()
    assert read.quantization is not None
    assert read.quantization.ignored_layers[-1] == "model.decoder.self_attn.o_proj"


def test_v2_flash_layers() -> None:
    config = MiMoConfig.from_dict(V2_FLASH, num_mtp_layers=3)
    layers = [config.layer(i) for i in range(config.num_hidden_layers)]
    assert [i for i, layer in enumerate(layers) if layer.kind == "global"] == [
        0, 5, 11, 17, 23, 29, 35, 41, 47,
    ]  # fmt: skip
    assert layers[0] == LayerConfig(
        kind="global",
        num_q_heads=64,
        num_kv_heads=4,
        head_dim=192,
        v_head_dim=128,
        rotary_dim=64,
        rope_theta=5e6,
        window_keys=None,
        sink=False,
        value_scale=0.707,
        moe=False,
        intermediate_size=16384,
    )
    assert layers[1] == LayerConfig(
        kind="sliding",
        num_q_heads=64,
        num_kv_heads=8,
        head_dim=192,
        v_head_dim=128,
        rotary_dim=64,
        rope_theta=1e4,
        window_keys=129,
        sink=True,
        value_scale=0.707,
        moe=True,
        intermediate_size=2048,
    )
    assert config.mtp_layer() == replace(layers[1], moe=False, intermediate_size=16384)
    assert layers[1].softmax_scale == pytest.approx(192**-0.5, rel=1e-15)


def test_layer_index_is_checked() -> None:
    for index in (-1, 48):
        with pytest.raises(ShapeError, match="0 <= index < 48"):
            MiMoConfig.mimo_v2_flash().layer(index)


def test_later_family_members() -> None:
    pro = MiMoConfig.from_dict(V2_5_PRO)
    assert pro.attention_value_scale == 0.612
    assert [i for i, s in enumerate(pro.hybrid_layer_pattern) if s == 0] == [
        0, 7, 15, 23, 31, 39, 47, 55, 62, 69,
    ]  # fmt: skip
    assert pro.layer(0).num_kv_heads == pro.layer(1).num_kv_heads == 8
    assert pro.layer(0).rope_theta == 1e7
    assert pro.layer(1).rope_theta == 1e4
    assert pro.attention_projection_layout == "fused_qkv"
    assert pro.quantization == QuantizationConfig(
        store_dtype="fp8", ignored_layers=tuple(V2_FLASH["quantization_config"]["ignored_layers"])
    )

    flash = MiMoConfig.from_dict(V2_6_FLASH)
    assert flash.rms_norm_eps == 1e-6
    assert flash.moe_router_dtype == "bfloat16"
    assert flash.num_mtp_layers == 3
    assert flash.quantization is not None
    assert flash.quantization.store_dtype == "mxfp4"


def test_llama_type_model() -> None:
    config = MiMoConfig.from_dict(SMOLLM2)
    assert {config.layer(i) for i in range(30)} == {
        LayerConfig(
            kind="global",
            num_q_heads=9,
            num_kv_heads=3,
            head_dim=64,
            v_head_dim=64,
            rotary_dim=64,
            rope_theta=1e5,
            window_keys=None,
            sink=False,
            value_scale=1.0,
            moe=False,
            intermediate_size=1536,
        )
    }
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (2,)


@pytest.mark.parametrize("name", RELEASES)
def test_what_is_written_is_read_back(name: str) -> None:
    config = MiMoConfig.from_dict(RELEASES[name])
    assert MiMoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("window_keys", [1, 2, 127, 128, 129])
def test_window_survives_a_round_trip(window_keys: int) -> None:
    config = MiMoConfig.from_dict(V2_FLASH, window_keys=window_keys)
    d = json.loads(json.dumps(config.to_dict()))
    assert d["sliding_window"] == window_keys
    assert d["sliding_window_size"] == window_keys - 1
    assert d["mimo_native_window_keys"] == window_keys
    again = MiMoConfig.from_dict(d)
    assert again.window_keys == again.layer(1).window_keys == window_keys
    # Without our own key it is still the same window.
    del d["mimo_native_window_keys"]
    assert MiMoConfig.from_dict(d).window_keys == window_keys


def edited(base: dict, **changes: object) -> dict:
    d = {**base, **changes}
    return {name: value for name, value in d.items() if value is not Ellipsis}


@pytest.mark.parametrize(
    ("changes", "window_keys"),
    [
        ({}, 129),
        ({"sliding_window": 7}, 129),  # ignored beside the size
        ({"sliding_window_size": ..., "sliding_window": 128}, 129),  # the hub's field all the same
        ({"sliding_window_size": 0}, 1),
        ({"hybrid_layer_pattern": None, "hybrid_block_size": 6}, 129),
    ],
)
def test_hub_window(changes: dict, window_keys: int) -> None:
    config = MiMoConfig.from_dict(edited(V2_FLASH, **changes))
    assert config.layer(1).window_keys == window_keys


def test_transformers_dialect() -> None:
    # No hub field at all: transformers' own rules and defaults.
    d = {
        "model_type": "mimo_v2_flash",
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "sliding_window": 128,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse", "dense"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 7e5},
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": 3e3,
                "partial_rotary_factor": 0.5,
            },
        },
        "rms_norm_eps": 1e-6,
    }
    config = MiMoConfig.from_dict(d)
    full, sliding = config.layer(0), config.layer(1)
    assert (full.num_kv_heads, sliding.num_kv_heads) == (2, 4)
    assert (full.sink, sliding.sink) == (False, True)
    assert (full.rope_theta, sliding.rope_theta) == (7e5, 3e3)
    assert (full.rotary_dim, sliding.rotary_dim) == (64, 96)
    assert sliding.window_keys == 128
    assert [config.layer(i).moe for i in range(3)] == [False, True, False]
    assert config.rms_norm_eps == 1e-6
    assert config.attention_value_scale == 0.707
    assert MiMoConfig.from_dict({**d, "attention_value_scale": None}).attention_value_scale == 1.0
    bare = MiMoConfig.from_dict({"model_type": "mimo_v2_flash"})
    assert bare == replace(
        MiMoConfig.mimo_v2_flash(),
        num_mtp_layers=0,
        max_position_embeddings=131072,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=None,
    )


def test_block_size_is_an_alternative_to_the_pattern() -> None:
    d = edited(V2_FLASH, hybrid_layer_pattern=None, hybrid_block_size=4, num_hidden_layers=8)
    d["moe_layer_freq"] = [0] + [1] * 7
    assert MiMoConfig.from_dict(d).hybrid_layer_pattern == (1, 1, 1, 0, 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ({"topk_method": "greedy"}, "topk_method 'greedy'"),
        ({"attention_projection_layout": "fused_kv"}, "attention_projection_layout 'fused_kv'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"moe_router_dtype": "float16"}, "moe_router_dtype 'float16'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling of type 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type 'linear'"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "llama3"}}},
            "rope_parameters of type 'llama3'",
        ),
        ({"n_shared_experts": 1}, "n_shared_experts 1"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"attention_dropout": 0.1}, "attention_dropout 0.1"),
        ({"use_qk_norm": True}, "use_qk_norm True"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ({"model_type": "qwen3"}, "model_type 'qwen3'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq'"),
        ({"quantization_config": {}}, "quant_method None"),
        (
            {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}},
            "activation_scheme 'static'",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "store_dtype": "nvfp4"}},
            "store_dtype 'nvfp4'",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 32]}},
            r"weight_block_size \[1, 32\]",
        ),
        ({"torch_dtype": "int8"}, "torch_dtype 'int8'"),
    ],
)
def test_unknown_modes_are_refused_by_name(changes: dict, named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        MiMoConfig.from_dict(edited(V2_FLASH, **changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": ...}, "hidden_size: expected a value, got nothing"),
        ({"hidden_size": "4096"}, "hidden_size: expected an integer"),
        ({"hidden_size": True}, "hidden_size: expected an integer"),
        ({"hidden_size": 0}, "hidden_size: expected an integer >= 1"),
        ({"rope_theta": float("nan")}, "rope_theta: expected a finite number"),
        ({"rope_theta": -1.0}, "rope_theta: expected a finite number above 0"),
        ({"partial_rotary_factor": 0.01}, "even and at least 2"),
        ({"hybrid_layer_pattern": [0, 1]}, r"hybrid_layer_pattern: expected 48 entries"),
        ({"hybrid_layer_pattern": [2] * 48}, "hybrid_layer_pattern: expected entries 0 or 1"),
        ({"hybrid_layer_pattern": None}, "hybrid_layer_pattern"),
        ({"moe_layer_freq": None}, "moe_layer_freq"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: expected a divisor"),
        ({"swa_num_key_value_heads": ...}, "swa_num_key_value_heads"),
        ({"swa_rope_theta": None}, "swa_rope_theta"),
        ({"sliding_window_size": -1}, "window_keys: expected an integer >= 1"),
        ({"num_experts_per_tok": 257}, "num_experts_per_tok: expected at most the 256"),
        ({"n_group": 3}, "n_group: expected a divisor of 256"),
        ({"n_group": 256}, "at least 2 experts in a group"),
        ({"n_group": 8, "topk_group": 9}, "topk_group: expected at most n_group = 8"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps: expected the same value as layernorm_epsilon"),
        ({"mimo_native_window_keys": 128}, r"sliding_window_size \+ 1: expected the same value"),
        ({"layer_types": ["full_attention"] * 48}, "layer_types: expected the same value"),
        ({"rope_parameters": {"rope_theta": 1e6}}, "rope_parameters.rope_theta: expected the same"),
        ({"eos_token_id": "</s>"}, "eos_token_id: expected token ids"),
        ({"attention_value_scale": 0.0}, "attention_value_scale"),
    ],
)
def test_wrong_fields_are_named(changes: dict, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        MiMoConfig.from_dict(edited(V2_FLASH, **changes))


def test_mtp_needs_a_window() -> None:
    with pytest.raises(CheckpointError, match="window_keys"):
        MiMoConfig.from_dict(SMOLLM2, num_mtp_layers=1)
    config = MiMoConfig.from_dict(SMOLLM2, num_mtp_layers=1, window_keys=33)
    assert config.mtp_layer().window_keys == 33
    with pytest.raises(ShapeError, match="window_keys"):
        MiMoConfig.from_dict(SMOLLM2).mtp_layer()


def test_file_errors_say_where(tmp_path) -> None:
    file = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match=r"config\.json: file: expected a readable file"):
        MiMoConfig.from_pretrained(tmp_path)
    file.write_text('{\n  "hidden_size": 4096,\n  "vocab_size": 3,\n}\n')
    with pytest.raises(CheckpointError, match=r"line 3, column 18.*comma before the closing"):
        MiMoConfig.from_pretrained(tmp_path)
    file.write_text('{\n  "hidden_size": 4096\n  "vocab_size": 3\n}\n')
    with pytest.raises(CheckpointError, match="line 3, column 3"):
        MiMoConfig.from_pretrained(tmp_path)
    file.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="a JSON object, got list"):
        MiMoConfig.from_pretrained(tmp_path)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CheckpointError, match="UTF-8"):
        MiMoConfig.from_pretrained(tmp_path)
    file.write_text(json.dumps({**V2_FLASH, "hidden_size": 0}))
    with pytest.raises(CheckpointError, match=r"config.json: hidden_size"):
        MiMoConfig.from_pretrained(file)
    file.write_text(json.dumps(V2_FLASH))
    assert MiMoConfig.from_pretrained(file, window_keys=128).window_keys == 128


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_field_may_hold_anything(data: st.DataObject) -> None:
    """A damaged field gives a config or one of the package's errors, never another exception."""
    base = dict(data.draw(st.sampled_from(list(RELEASES.values()))))
    names = [*base, "layer_types", "mlp_layer_types", "rope_parameters", "num_nextn_predict_layers"]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        base[name] = data.draw(JUNK)
    try:
        config = MiMoConfig.from_dict(base)
    except (CheckpointError, UnsupportedError):
        return
    assert MiMoConfig.from_dict(config.to_dict()) == config


def test_public_names() -> None:
    assert mn.MiMoConfig is MiMoConfig
    assert hash(MiMoConfig.tiny()) == hash(MiMoConfig.tiny())
