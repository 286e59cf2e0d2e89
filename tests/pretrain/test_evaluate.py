"""Held-out losses and acceptance against counts made one document and one position at a time."""

from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native.pretrain import EvalConfig, evaluate
from mimo_native.pretrain.evaluate import accepted_runs, overall
from mimo_native.training import PackedRows, TokenFile, TokenWriter

from ..oracles.pretrain_float64 import PretrainOracle
from .models import random_model, tiny

HEADS = 3
SMALL = {"hybrid_layer_pattern": (0, 1), "moe_layer_freq": (0, 1)}


@pytest.fixture(scope="module")
def model() -> mn.MiMoForCausalLM:
    return random_model(tiny(**SMALL), dtype=torch.float32)


def token_file(path: Path, documents: list[list[int]], text_bytes: int) -> TokenFile:
    with TokenWriter(path, vocab_size=256) as writer:
        for document in documents:
            writer.add(document, text_bytes=text_bytes)
    return TokenFile(path)


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    documents = [[(31 * d + 7 * i * i) % 256 for i in range(6 + 5 * d)] for d in range(6)]
    return token_file(tmp_path / "corpus", documents, 40)


def test_losses_are_means_over_all_rows(file: TokenFile) -> None:
    """Of every head over its own targets, in float64, as the oracle has them."""
    model = random_model(tiny(**SMALL))
    settings = EvalConfig(rows=3, prompts=0)
    with mn.backends.use("reference"):
        score = evaluate(model, {"c": file}, settings, seq_len=24, seed=5)["c"]
    rows = []
    for n in range(3):
        ids, lengths = PackedRows(file, seq_len=24, key=(5, -2)).row(n)
        pieces = torch.from_numpy(ids).split(lengths)
        rows.append([piece.tolist() for piece in pieces])
    oracle = PretrainOracle(model.state_dict(), model.config)
    with torch.no_grad():
        main = float(oracle.loss(rows, mtp_weight=0.0, aux=0.0))
        each = [[] for _ in range(HEADS)]
        for document in (document for row in rows for document in row):
            hidden = oracle.hidden(document, {}, {})
            for k in range(HEADS):
                each[k] += oracle.head_losses(k, document, hidden)
    assert score.loss == pytest.approx(main, rel=1e-9)
    assert score.loss_per_byte == pytest.approx(main * len(file) / (6 * 40), rel=1e-9)
    assert score.mtp_loss == pytest.approx([float(sum(e)) / len(e) for e in each], rel=1e-9)
    assert (score.acceptance, score.accept_length) == ((), 0.0)


def guesses(model: mn.MiMoForCausalLM, ids: list[int]) -> list[list[int]]:
    """guesses[k][i]: what head k says token i + 2 + k is, through the model's public face."""
    whole = torch.tensor([ids])
    with torch.no_grad():
        hidden = model(whole, logits="none").hidden
        out = []
        for k in range(HEADS):
            rows = len(ids) - 1 - k
            logits = model.mtp(k, whole[:, 1 + k :], hidden[:, :rows]).logits
            out.append(logits[0].argmax(-1).tolist())
    return out


def likely(model: mn.MiMoForCausalLM, length: int, seed: int) -> list[int]:
    """Ids of which the heads guess some: most are what a head said."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(256, (4,), generator=generator).tolist()
    while len(ids) < length:
        k = int(torch.randint(HEADS + 1, (1,), generator=generator))
        said = guesses(model, ids)[k % HEADS]
        ids.append(said[-1] if k < HEADS else int(torch.randint(256, (1,), generator=generator)))
    return ids


def runs_by_hand(model: mn.MiMoForCausalLM, ids: list[int]) -> list[int]:
    said, runs = guesses(model, ids), []
    for i in range(len(ids)):
        if i + HEADS + 1 >= len(ids):
            runs.append(-1)
            continue
        hits = [said[k][i] == ids[i + 2 + k] for k in range(HEADS)]
        runs.append([*hits, False].index(False))
    return runs


def test_accepted_runs(model: mn.MiMoForCausalLM) -> None:
    documents = [likely(model, n, seed) for seed, n in enumerate((16, 14, 3, 9))]
    want = [run for document in documents for run in runs_by_hand(model, document)]
    assert len({*want}) > 2  # some runs end at once and some do not
    lengths = torch.tensor([len(document) for document in documents])
    with torch.no_grad():
        got = accepted_runs(
            model, torch.tensor([i for document in documents for i in document]), lengths
        )
    assert got.tolist() == want


def test_simulated_acceptance_counts_rounds(
    model: mn.MiMoForCausalLM, file: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds along a known continuation: each takes what was accepted and one token more."""
    texts = [likely(model, 30, seed) for seed in (11, 12)]

    class Done:
        def __init__(self, ids: list[int]) -> None:
            self.token_ids = ids

    module = __import__("mimo_native.pretrain.evaluate", fromlist=["generate"])
    monkeypatch.setattr(module, "_prompts", lambda *_: [text[:5] for text in texts])
    monkeypatch.setattr(module, "generate", lambda *_, **__: [Done(text[5:]) for text in texts])
    score = evaluate(model, {"c": file}, EvalConfig(rows=1, prompts=2), seq_len=16)["c"]
    taken: list[int] = []
    for text in texts:
        runs, n = runs_by_hand(model, text), 5
        while runs[n - 1] >= 0:
            taken.append(runs[n - 1] + 1)
            n += taken[-1]
    assert max(taken) > 1
    assert score.accept_length == pytest.approx(sum(taken) / len(taken))
    for k in range(HEADS):
        share = sum(t > k + 1 for t in taken) / len(taken)
        assert score.acceptance[k] == pytest.approx(share)


def test_sampled_evaluation_repeats(model: mn.MiMoForCausalLM, file: TokenFile) -> None:
    settings = EvalConfig(rows=2, prompts=2, prompt_tokens=4, new_tokens=10)
    one = evaluate(model, {"a": file, "b": file}, settings, seq_len=24)
    assert one["a"] == one["b"] == evaluate(model, {"a": file}, settings, seq_len=24)["a"]
    score = one["a"]
    assert 1.0 <= score.accept_length <= HEADS + 1
    assert score.accept_length == pytest.approx(1 + sum(score.acceptance))
    assert sorted(score.acceptance, reverse=True) == list(score.acceptance)
    assert overall(one)["loss"] == pytest.approx(score.loss)


def test_a_model_without_heads(file: TokenFile) -> None:
    bare = random_model(tiny(num_mtp_layers=0, **SMALL), dtype=torch.float32)
    score = evaluate(bare, {"c": file}, EvalConfig(rows=1, prompts=2), seq_len=16)["c"]
    assert (score.mtp_loss, score.acceptance) == ((), ())
    assert (score.accept_length, score.text_length) == (0.0, 0.0)
