"""nano's corpora and recipe: the whole way from text to a model with three heads, in small."""

import json
import random
from pathlib import Path

import pytest

import mimo_native as mn
from mimo_native.pretrain import nano
from mimo_native.pretrain.nano import corpora

pytest.importorskip("tokenizers")


def test_generated_texts_are_a_function_of_the_seed(monkeypatch, tmp_path: Path) -> None:
    generated = {
        name: (documents, 5000)
        for name, (documents, limit) in corpora.DOMAINS.items()
        if limit is not None
    }
    monkeypatch.setattr(corpora, "DOMAINS", generated)
    first, again = (nano.write_corpora(tmp_path / d, seed=1) for d in "ab")
    other = nano.write_corpora(tmp_path / "c", seed=2)
    assert set(first) == {"tables", "logs", "records"}
    for name in first:
        assert first[name].read_bytes() == again[name].read_bytes() != other[name].read_bytes()


def test_tables_are_right() -> None:
    documents = corpora.DOMAINS["tables"][0](random.Random(3))
    checked = 0
    for _ in range(200):
        for line in next(documents).splitlines():
            if " x " in line:
                product, value = line.split(" = ")
                a, b = product.split(" x ")
                assert int(a) * int(b) == int(value)
                checked += 1
    assert checked > 100


def test_records_are_json() -> None:
    documents = corpora.DOMAINS["records"][0](random.Random(3))
    for _ in range(50):
        rows = json.loads(next(documents))
        assert [row["id"] for row in rows] == list(range(rows[0]["id"], rows[-1]["id"] + 1))


def test_from_text_to_a_model_that_speculates(monkeypatch, tmp_path: Path) -> None:
    small = {
        name: (documents, limit and 200_000) for name, (documents, limit) in corpora.DOMAINS.items()
    }
    monkeypatch.setattr(corpora, "_sources", _few_sources)
    monkeypatch.setattr(corpora, "DOMAINS", small)
    result = nano.build(tmp_path, tokens=3 * 4096, head_tokens=4096)
    assert result.status == "finished"
    assert nano.build(tmp_path, tokens=3 * 4096, head_tokens=4096) == result  # nothing left to do
    model, tokenizer = mn.load(tmp_path / "heads" / "final")
    assert model.config.num_mtp_layers == 3
    assert tokenizer.decode(tokenizer.encode("7 x 8 = 56")) == "7 x 8 = 56"
    sampling = mn.Sampling(max_tokens=24, seed=1)
    plain, fast = (
        mn.generate(model, ["Table of 7\n"], sampling=sampling, speculative=mode)[0].token_ids
        for mode in (None, "tree")
    )
    assert plain == fast


def _few_sources(rng: random.Random):
    names = ("json/__init__.py", "json/decoder.py", "textwrap.py", "bisect.py", "heapq.py")
    root = Path(json.__file__).parents[1]
    return iter([(root / name).read_text(encoding="utf-8") for name in names] * 24)
