"""What SmolLM2's heads are trained on and how, without SmolLM2."""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_native.cli.bench_speculative import _PROMPTS
from mimo_native.pretrain import smollm2
from mimo_native.pretrain.smollm2 import corpora, prompts
from mimo_native.training import TokenFile


@pytest.mark.parametrize("kind", prompts.KINDS)
def test_requests(kind: str) -> None:
    train, held = (list(islice(prompts.requests(kind, heldout=h), 3000)) for h in (False, True))
    assert train == list(islice(prompts.requests(kind), 3000))
    assert len(set(train)) > 1500
    subjects = {s for form, slot in prompts._FORMS[kind] for s in prompts._SUBJECTS[slot]}
    asked = [{s for s in subjects if any(s in text for text in texts)} for texts in (train, held)]
    assert asked[0] | asked[1] == subjects
    assert not asked[0] & asked[1]


def test_none_of_them_is_measured_on() -> None:
    texts = [text for kind in prompts.KINDS for text in islice(prompts.requests(kind), 3000)]
    assert not set(texts) & set(_PROMPTS.values())
    assert not any(
        word in text for text in texts for word in ("Stack", "lighthouse", "numbers from")
    )


def test_answers_become_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the request to the end of the answer; held-out requests in a file of their own."""
    seen: list[tuple[str, float]] = []
    tokenizer = SimpleNamespace(
        apply_chat=lambda messages: list(messages[0]["content"].encode()),
        decode=lambda ids: bytes(i for i in ids if i < 256).decode(),
    )

    def generate(model: object, asked: list[list[int]], *, sampling: list, max_batch: int) -> list:
        assert len({s.seed for s in sampling}) == len(asked) == max_batch
        seen.extend(
            (bytes(p).decode(), s.temperature) for p, s in zip(asked, sampling, strict=True)
        )
        return [SimpleNamespace(token_ids=[*b"ok", *([300] * (i % 2))]) for i in range(len(asked))]

    monkeypatch.setattr(corpora, "generate", generate)
    monkeypatch.setattr(corpora, "DOMAINS", {"lists": 6000})
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=512, eos_token_ids=(300,)))
    [folder] = corpora.write_tokens(model, tokenizer, tmp_path).values()
    train, held = (TokenFile(folder / part) for part in ("train", "heldout"))
    assert 0.05 < len(held) / (len(held) + len(train)) < 0.12
    for file, asks in ((train, False), (held, True)):
        wanted = islice(prompts.requests("lists", heldout=asks), file.documents)
        for n, request in enumerate(wanted):
            assert file.document(n).tolist() == [*request.encode(), *b"ok", 300]
    assert [t for _, t in seen].count(0.0) == len(seen) / 2
    corpora.write_tokens(model, tokenizer, tmp_path)  # what is there stays
    assert len(seen) % 64 == 0


def test_every_run_begins_where_the_last_ended(tmp_path: Path) -> None:
    one, *others = smollm2.smollm2_runs(tmp_path)
    assert (one.init, one.mtp_heads) == ("smollm2", None)
    for before, run in zip((one, *others), others, strict=False):
        assert run.init == str(Path(before.output) / "final")
        assert (run.data, run.vocabulary, run.distill) == (one.data, one.vocabulary, one.distill)
    assert others[0].mtp_heads == 3
