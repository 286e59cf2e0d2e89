"""A model loads its own state dict: fused matrices under the names of their parts."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import mimo_native as mn
from mimo_native.nn import Attention

TINY = mn.MiMoConfig.tiny()
CONFIGS = {"tiny": TINY, "tied": replace(TINY, tie_word_embeddings=True)}


def make(config: mn.MiMoConfig, seed: int) -> mn.MiMoForCausalLM:
    return mn.MiMoForCausalLM(config).init_weights(std=0.1, seed=seed)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, yours = a.state_dict(), b.state_dict()
    return mine.keys() == yours.keys() and all(mine[k].equal(yours[k]) for k in mine)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_model_loads_another_ones_state(config: mn.MiMoConfig, packed: bool) -> None:
    source, model = make(config, 1), make(config, 2)
    if packed:
        model.pack()
    assert not same(source, model)
    state = source.state_dict()
    keys = list(state)
    assert not any(model.load_state_dict(state))
    assert same(source, model)
    assert list(state) == keys
    assert model.head.packed == packed
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert model.pack()(ids).logits.equal(source.pack()(ids).logits)


def test_a_layer_alone_and_a_copy() -> None:
    source, model = make(TINY, 1), make(TINY, 2)
    mine, yours = model.model.layers[1], source.model.layers[1]
    assert isinstance(mine.self_attn, Attention)
    for part in ("self_attn", "mlp"):
        getattr(mine, part).load_state_dict(getattr(yours, part).state_dict())
        assert same(getattr(mine, part), getattr(yours, part))
    twin = copy.deepcopy(source)
    twin.load_state_dict(model.state_dict())
    assert same(twin, model)


def test_what_is_missing_or_too_much_is_named() -> None:
    model = make(TINY, 1)
    before = copy.deepcopy(model)
    state = model.state_dict()
    key = "model.layers.0.self_attn.q_proj.weight"
    tensor = state.pop(key)
    with pytest.raises(RuntimeError, match=r"Missing key.*layers\.0\.self_attn\.q_proj\.weight"):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).missing_keys == [key]
    state |= {key: tensor, "model.layers.0.self_attn.x_proj.weight": tensor}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*x_proj"):
        model.load_state_dict(state)
    assert same(model, before)
    del state["model.layers.0.self_attn.x_proj.weight"]
    state[key] = tensor[1:]
    with pytest.raises(RuntimeError, match=r"q_proj\.weight: expected shape"):
        model.load_state_dict(state)
