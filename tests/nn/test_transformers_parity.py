"""Logits, cached decoding, padding and files against transformers' implementation, float32."""

import pytest
import torch
from transformers import MiMoV2FlashForCausalLM

import mimo_native as mn

from .hf_models import VARIANTS, Variant, hf_directory, hf_model, prompt_ids

# Both sides are float32 and sum in different orders; 2e-5 of the largest logit leaves no room for
# a wrong key.
BOUND = 2e-5


def assert_logits(got: torch.Tensor, want: torch.Tensor) -> None:
    error = (got - want).abs().max().item() / want.abs().max().item()
    assert error <= BOUND, f"logits differ by {error:.2e} of max|logit|"


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


def ours(variant: Variant) -> mn.MiMoForCausalLM:
    return mn.MiMoForCausalLM.from_pretrained(hf_directory(variant), dtype=torch.float32)


def theirs(variant: Variant, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return hf_model(variant)(ids).logits


def test_prefill(variant: Variant) -> None:
    ids = prompt_ids(variant)
    assert_logits(ours(variant)(ids).logits, theirs(variant, ids))


def test_unpacked_and_reference_paths_agree(variant: Variant) -> None:
    ids = prompt_ids(variant)[:1]
    model = ours(variant)
    packed = model(ids).logits
    model.unpack()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, packed)
        with mn.backends.use("reference"):
            assert_logits(model(ids).logits, theirs(variant, ids))


def test_every_chunk_size_around_the_window(variant: Variant) -> None:
    ids = prompt_ids(variant)
    want = theirs(variant, ids)
    model = ours(variant)
    window = dict(variant.changes).get("sliding_window", 8)
    for chunk in sorted({1, 2, window - 1, window, window + 1, 2 * window + 3, 64} - {0}):
        if ids.shape[1] // chunk > 100:
            continue
        cache = model.new_cache(ids.shape[0], ids.shape[1])
        parts = [model(part, cache=cache).logits for part in ids.split(chunk, dim=1)]
        assert_logits(torch.cat(parts, dim=1), want)


def test_left_padding(variant: Variant) -> None:
    ids = prompt_ids(variant)
    padded, mask = ids.clone(), torch.ones_like(ids)
    padded[0, :11], mask[0, :11] = 0, 0
    got = ours(variant)(padded, attention_mask=mask).logits
    assert_logits(got[1], theirs(variant, ids[1:])[0])
    assert_logits(got[0, 11:], theirs(variant, ids[:1, 11:])[0])
    assert torch.equal(got[0, :11], torch.zeros_like(got[0, :11]))


def test_packed_documents_do_not_leak(variant: Variant) -> None:
    ids = prompt_ids(variant)
    packed = torch.cat([ids[0], ids[1, :7]])[None]
    cu_seqlens = torch.tensor([0, ids.shape[1], ids.shape[1] + 7], dtype=torch.int32)
    got = ours(variant)(packed, cu_seqlens=cu_seqlens).logits[0]
    assert_logits(got[: ids.shape[1]], theirs(variant, ids[:1])[0])
    assert_logits(got[ids.shape[1] :], theirs(variant, ids[1:, :7])[0])


def test_greedy_text_is_equal(variant: Variant) -> None:
    prompt = prompt_ids(variant)[0].tolist()
    want = hf_model(variant).generate(
        torch.tensor([prompt]),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=None,
        use_cache=False,  # its cache of a window of 1 keeps everything
    )
    [got] = mn.generate(
        ours(variant),
        [prompt],
        sampling=mn.Sampling(temperature=0, max_tokens=16, ignore_eos=True),
    )
    assert got.token_ids == want[0, len(prompt) :].tolist()


def test_saved_back_transformers_loads_it_again(variant: Variant, tmp_path) -> None:
    ids = prompt_ids(variant)
    ours(variant).save_pretrained(tmp_path)
    model = MiMoV2FlashForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, theirs(variant, ids))
    again = mn.MiMoForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again(ids).logits, ours(variant)(ids).logits)


def test_loss_is_that_of_transformers(variant: Variant) -> None:
    ids = prompt_ids(variant)
    labels = ids.clone()
    labels[:, :5] = -100
    with torch.no_grad():
        want = hf_model(variant)(ids, labels=labels).loss
    got = ours(variant)(ids, labels=labels, logits="none").loss
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
