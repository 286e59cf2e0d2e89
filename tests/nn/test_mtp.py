"""MTP blocks against the oracle, and one test for each mistake that implementations have made."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mimo_native as mn

from .hf_models import hf_directory, prompt_ids
from .mtp_oracle import BLOCKS, MTP_VARIANT, Oracle, make_oracle

BOUND = 2e-5


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return make_oracle()


@pytest.fixture(scope="module")
def model(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> mn.MiMoForCausalLM:
    path: Path = tmp_path_factory.mktemp("mtp")
    for file in hf_directory(MTP_VARIANT).iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    tensors = {}
    for k, block in enumerate(oracle.blocks):
        tensors |= block.hub_tensors(k)
    save_file(tensors, path / "model_mtp.safetensors")
    return mn.MiMoForCausalLM.from_pretrained(path, dtype=torch.float32)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return prompt_ids(MTP_VARIANT, batch=1)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


def block_logits(model: mn.MiMoForCausalLM, k: int, ids: torch.Tensor) -> torch.Tensor:
    rows = ids.shape[1] - 1 - k
    hidden = model(ids, logits="none").hidden
    return model.mtp(k, ids[:, 1 + k :], hidden[:, :rows]).logits


def test_blocks_are_counted_from_the_file(model: mn.MiMoForCausalLM) -> None:
    assert model.config.num_mtp_layers == BLOCKS


@pytest.mark.parametrize("k", range(BLOCKS))
def test_block(model, oracle, ids, k: int) -> None:
    assert error(block_logits(model, k, ids), oracle.logits(k, ids)) <= BOUND


@pytest.mark.parametrize("k", range(BLOCKS))
@pytest.mark.parametrize("mistake", ["concat order", "post-norm hidden", "chained", "position"])
def test_each_known_mistake_is_seen(model, oracle, ids, mistake: str, k: int) -> None:
    if mistake == "chained" and k == 0:
        pytest.skip("block 0 has no block before it")
    rows = ids.shape[1] - 1 - k
    hidden = model(ids, logits="none").hidden[:, :rows]
    next_ids, kwargs = ids[:, 1 + k :], {}
    block = model.model.mtp.layers[k]
    if mistake == "post-norm hidden":
        hidden = model.model.norm(hidden)
    elif mistake == "chained":
        before = model.mtp(k - 1, ids[:, k : k + rows], hidden)
        hidden = before.hidden
    elif mistake == "position":
        # A constant offset cancels in RoPE's differences; a wrong angle needs a wrong step.
        with pytest.raises(mn.ShapeError, match="position_ids"):
            model.mtp(k, next_ids, hidden, position_ids=2 * torch.arange(rows)[None])
        return
    if mistake == "concat order":
        weight = block.eh.weight
        half = model.config.hidden_size
        plain = weight.unpack()
        block.eh.weight = mn.ops.pack(
            torch.cat([plain[:, half:], plain[:, :half]], dim=1), format="f32"
        )
    try:
        got = model.mtp(k, next_ids, hidden, **kwargs).logits
    finally:
        if mistake == "concat order":
            block.eh.weight = weight
    assert error(got, oracle.logits(k, ids)) > 1e-3


@pytest.mark.parametrize("k", range(BLOCKS))
def test_loss_masks_the_last_positions_of_every_document(model, oracle, ids, k: int) -> None:
    first, second = ids[:, :17], ids[:, 17:30]
    want = []
    for document in (first, second):
        logits, targets = oracle.logits(k, document)[0, :-1], document[0, 2 + k :]
        want += list(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    packed = ids[:, :30]
    cu_seqlens = torch.tensor([0, 17, 30], dtype=torch.int32)
    hidden = model(packed, cu_seqlens=cu_seqlens, logits="none").hidden
    # The tokens beyond a document's end are anything: those positions are masked.
    next_ids = torch.cat([packed[:, 1 + k :], packed.new_full((1, 1 + k), 5)], dim=1)
    got = model.mtp(k, next_ids, hidden, cu_seqlens=cu_seqlens, labels=packed, logits="none").loss
    torch.testing.assert_close(got, torch.stack(want).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", range(BLOCKS))
def test_cached_rows_equal_the_whole_pass(model, ids, k: int) -> None:
    want = block_logits(model, k, ids)
    rows = want.shape[1]
    hidden = model(ids, logits="none").hidden[:, :rows]
    next_ids = ids[:, 1 + k :]
    cache = model.new_cache(1, ids.shape[1])
    parts = []
    for start, stop in ((0, 7), (7, 8), (8, 21), (21, rows)):
        out = model.mtp(k, next_ids[:, start:stop], hidden[:, start:stop], cache=cache)
        cache.commit_mtp(k)
        parts.append(out.logits)
    assert torch.equal(torch.cat(parts, dim=1), want)


def test_wrong_block_and_hidden_are_refused(model, ids) -> None:
    hidden = model(ids, logits="none").hidden
    with pytest.raises(mn.ShapeError, match="k: expected 0 <= k < 3"):
        model.mtp(3, ids, hidden)
    with pytest.raises(mn.ShapeError, match="hidden"):
        model.mtp(0, ids, hidden[:, :-1])
