"""A real language model through our kernels, against an independent evaluation of its weights."""

import pytest
import torch

import mimo_native as mn

from ..oracles.llama_numpy import perplexity

# bfloat16 rounds weights and activations; 0.5 % of perplexity is the bound for float32 weights.
DTYPES = {torch.float32: 0.0005, torch.bfloat16: 0.02}


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def model(request: pytest.FixtureRequest, smollm2_path) -> mn.MiMoForCausalLM:
    return mn.load(smollm2_path, dtype=request.param)[0]


def test_perplexity(model, smollm2_oracle, plain_english: str) -> None:
    ids = model.tokenizer.encode(plain_english)[:256]
    got = model(torch.tensor([ids]), labels=torch.tensor([ids]), logits="none").loss.exp().item()
    want = perplexity(smollm2_oracle.logits(ids), ids)
    assert abs(got / want - 1) <= DTYPES[model.dtype], (got, want)


# The most that a format may add to the perplexity; docs/formats.md states what each does add.
FORMATS = {
    "stored": 0.005,
    "int8_row": 0.01,
    "int8_32": 0.01,
    "int8_row_a8": 0.02,
    "int8_32_a8": 0.02,
    "e4m3_128x128": 0.04,
    "int4_32": 0.12,
    "mxfp4": 1.5,
}


@pytest.mark.parametrize("format", FORMATS)
def test_perplexity_in_every_format(
    format: str, smollm2_path, smollm2_oracle, plain_english: str
) -> None:
    model = mn.MiMoForCausalLM.from_pretrained(smollm2_path, weight_format=format)
    ids = mn.load(smollm2_path)[1].encode(plain_english)[:256]
    with torch.no_grad():
        out = model(torch.tensor([ids]), labels=torch.tensor([ids]), logits="none")
    want = perplexity(smollm2_oracle.logits(ids), ids)
    assert -0.02 <= out.loss.exp().item() / want - 1 <= FORMATS[format]


def test_the_capital_of_france(model) -> None:
    greedy = mn.Sampling(temperature=0, max_tokens=8)
    [done] = mn.generate(model, ["The capital of France is"], sampling=greedy)
    assert "Paris" in done.text


def test_it_answers_in_its_chat_template_and_stops(model) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    greedy = mn.Sampling(temperature=0, max_tokens=40)
    [done] = mn.generate(model, [model.tokenizer.apply_chat(chat)], sampling=greedy)
    assert "Paris" in done.text
    assert done.finish_reason == "stop"


def test_stop_strings_and_seeds(model) -> None:
    sampling = mn.Sampling(temperature=1.0, seed=5, max_tokens=30, ignore_eos=True)
    [free] = mn.generate(model, ["Once upon a time"], sampling=sampling)
    [again] = mn.generate(model, ["Once upon a time"], sampling=sampling)
    assert free.token_ids == again.token_ids
    word = free.text.split()[3]
    stopping = mn.Sampling(temperature=1.0, seed=5, max_tokens=30, stop=(word,))
    [cut] = mn.generate(model, ["Once upon a time"], sampling=stopping)
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index(word)]
