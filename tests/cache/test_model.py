"""All layers of a model are committed, cut and refused together; MTP blocks have own lengths."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mimo_native import MiMoConfig, ShapeError, UnsupportedError
from mimo_native.cache import ModelCache

CONFIG = replace(MiMoConfig.tiny(), num_mtp_layers=2)


def step(n: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of n packed tokens for every layer."""
    gen = torch.Generator().manual_seed(seed)
    layers = [CONFIG.layer(i) for i in range(CONFIG.num_hidden_layers)]
    return [
        tuple(
            torch.randn(n, layer.num_kv_heads, d, generator=gen).bfloat16()
            for d in (layer.head_dim, layer.v_head_dim)
        )
        for layer in layers
    ]


def mtp_step(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    layer, gen = CONFIG.mtp_layer(), torch.Generator().manual_seed(seed)
    sizes = layer.head_dim, layer.v_head_dim
    return tuple(torch.randn(n, layer.num_kv_heads, d, generator=gen).bfloat16() for d in sizes)


def snapshot(cache: ModelCache) -> list[Tensor]:
    parts = [cache.lengths, *(cache.mtp_lengths(k) for k in range(2))]
    for layer in (*cache.layers, *cache.mtp_layers):
        parts += [layer.keys, layer.values]
        parts += [] if layer.held_from is None else [layer.held_from]
    return [t.clone().view(torch.uint8) for t in parts]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(x.equal(y) for x, y in zip(a, b, strict=True))


def filled(rows: int, length: int, max_tokens: int = 512) -> ModelCache:
    cache = ModelCache.for_config(CONFIG, rows, max_tokens)
    cache.stage(step(rows * length), torch.arange(rows + 1) * length)
    cache.commit()
    return cache


def test_layers_follow_the_config() -> None:
    cache = ModelCache.for_config(CONFIG, 2, 100)
    kinds = ["sliding" if layer.is_ring else "global" for layer in cache.layers]
    assert kinds == [CONFIG.layer(i).kind for i in range(CONFIG.num_hidden_layers)]
    assert len(cache.mtp_layers) == 2
    assert all(layer.is_ring for layer in cache.mtp_layers)
    assert cache.nbytes == sum(x.nbytes for x in (*cache.layers, *cache.mtp_layers))
    assert cache.rows == 2


def test_a_step_reaches_every_layer() -> None:
    cache = ModelCache.for_config(CONFIG, 2, 100)
    edges = torch.tensor([0, 3, 8])
    keys_values = step(8)
    cache.stage(keys_values, edges)
    assert not cache.lengths.any()
    cache.commit()
    assert cache.lengths.tolist() == [3, 5]
    for row, part in enumerate((slice(0, 3), slice(3, 8))):
        for (k, v), (keys, values, at) in zip(keys_values, cache.unpacked(row), strict=False):
            assert keys.equal(k[part])
            assert values.equal(v[part])
            assert at.equal(torch.arange(part.stop - part.start))
    with pytest.raises(ShapeError, match="staged"):
        cache.commit()


def test_a_tree_commits_its_path() -> None:
    cache = filled(1, 40)
    keys_values = step(3, seed=1)
    cache.stage(keys_values, torch.tensor([0, 3]), torch.tensor([1, 3, 5]))
    with pytest.raises(ShapeError, match="path"):
        cache.commit(torch.tensor([0, 1, 2]))
    assert cache.lengths.tolist() == [40]
    cache.commit(torch.tensor([0, 2]))
    assert cache.lengths.tolist() == [42]
    for (k, v), (keys, values, _) in zip(keys_values, cache.unpacked(0), strict=False):
        assert keys[-2:].equal(k[[0, 2]])
        assert values[-2:].equal(v[[0, 2]])


def test_nothing_is_written_when_one_layer_does_not_fit() -> None:
    cache = filled(2, 40)
    before = snapshot(cache)
    for broken in (
        lambda t: t[:, :1],
        lambda t: t.float(),
        lambda t: t[:1],
        lambda t: t[..., :-1],
    ):
        keys_values = step(2)
        k, v = keys_values[-1]
        keys_values[-1] = (broken(k), v)
        cache.stage(keys_values, torch.tensor([0, 1, 2]))
        with pytest.raises(ShapeError, match="commit"):
            cache.commit()
        assert same(before, snapshot(cache))
    with pytest.raises(ShapeError, match="keys_values"):
        cache.stage(step(2)[:-1], torch.tensor([0, 1, 2]))


def test_max_tokens_holds_for_every_layer() -> None:
    cache = filled(2, 40, max_tokens=41)
    before = snapshot(cache)
    too_many = torch.tensor([0, 0, 2])
    with pytest.raises(ShapeError, match="max_tokens"):
        cache.check_room(too_many)
    cache.check_room(too_many, tree=True)
    cache.check_room(torch.tensor([0, 1, 2]))
    with pytest.raises(ShapeError, match="rows"):
        cache.check_room(torch.tensor([0, 1]))
    cache.stage(step(2), too_many)
    with pytest.raises(ShapeError, match="at most 41 tokens"):
        cache.commit()
    assert same(before, snapshot(cache))


def test_mtp_blocks_trail_behind() -> None:
    cache = filled(2, 40)
    k, v = mtp_step(70)
    cache.stage_mtp(1, [(k, v)], torch.tensor([0, 39, 70]))
    cache.commit_mtp(1)
    assert cache.mtp_lengths(0).tolist() == [0, 0]
    assert cache.mtp_lengths(1).tolist() == [39, 31]
    assert cache.lengths.tolist() == [40, 40]
    keys, values, at = cache.mtp_layers[1].unpacked(1)
    assert keys.equal(k[39:][at])
    assert values.equal(v[39:][at])
    with pytest.raises(ShapeError, match="staged"):
        cache.commit_mtp(0)
    for k_bad in (-1, 2):
        with pytest.raises(ShapeError, match="MTP block"):
            cache.commit_mtp(k_bad)


def test_cutting_a_row_cuts_its_layers_and_drops_what_was_staged() -> None:
    cache = filled(2, 40)
    cache.stage_mtp(0, [mtp_step(70)], torch.tensor([0, 39, 70]))
    cache.commit_mtp(0)
    cache.truncate(0, 35)
    assert cache.lengths.tolist() == [35, 40]
    assert cache.mtp_lengths(0).tolist() == [35, 31]
    cache.truncate(1, 33)
    assert cache.mtp_lengths(0).tolist() == [35, 31]
    cache.stage(step(2), torch.tensor([0, 1, 2]))
    cache.reset(1)
    assert cache.lengths.tolist() == [35, 0]
    with pytest.raises(ShapeError, match="staged"):
        cache.commit()
    for length in (-1, 36):
        with pytest.raises(ShapeError, match="truncate: length"):
            cache.truncate(0, length)
    with pytest.raises(ShapeError, match="row"):
        cache.reset(2)


def test_a_cut_that_one_ring_refuses_changes_no_layer() -> None:
    cache = filled(1, 400)
    before = snapshot(cache)
    with pytest.raises(ShapeError, match="truncate: length"):
        cache.truncate(0, 200)
    assert same(before, snapshot(cache))
    cache.truncate(0, 399)
    assert cache.lengths.tolist() == [399]


def test_a_layer_of_a_model_is_not_changed_alone() -> None:
    layer = filled(1, 10).layers[0]
    k, v = step(1)[0]
    for call in (
        lambda: layer.commit(k[None], v[None]),
        lambda: layer.truncate(0, 1),
        lambda: layer.reset(0),
    ):
        with pytest.raises(UnsupportedError, match="ModelCache"):
            call()
