"""The text that MTP heads for SmolLM2 are trained on: mostly what SmolLM2 itself writes.

Heads must guess their own trunk's next words, so most of the text is its own: answers to written
requests for code and lists, half of them greedy, and conversations in which it plays
both sides: given the opening of a user's turn it makes up a question, then it answers, every other
time greedily. The rest is cut from the documentation and sources of the running Python's standard
library (PSF licence) and from generated records, logs and tables.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from ...inference import Sampling, generate
from ...nn import MiMoForCausalLM
from ...text import Tokenizer
from ...training.data import TokenWriter
from ..nano.corpora import DOMAINS as TEXTS
from .prompts import KINDS, requests

__all__ = ["DOMAINS", "write_tokens"]

# Tokens of each domain, held-out ones included.
DOMAINS = {
    "scripts": 200_000,
    "lists": 50_000,
    "chat": 150_000,
    "code": 60_000,
    "prose": 45_000,
    "records": 15_000,
    "logs": 15_000,
    "tables": 15_000,
}
_BATCH = 64
_PIECE = 512  # tokens of a document at most; a longer one gives one piece, at a drawn place
_QUESTION, _ANSWER = 64, 160
_LONG_ANSWER, _TEMPERATURES = 320, (0.0, 0.0, 0.7, 1.0)
_HELDOUT = 12  # one document in so many


def write_tokens(
    model: MiMoForCausalLM,
    tokenizer: Tokenizer,
    output: str | Path,
    *,
    seed: int = 0,
    scale: float = 1.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Path]:
    """Token files ``output``/DOMAIN/{train, heldout} of every domain; those that exist stay.

    ``scale`` multiplies the domains' sizes. Conversations are a function of the weights, the seed
    and the instruction set; code and prose depend on the Python that runs.
    """
    folders = {}
    for name, tokens in DOMAINS.items():
        folders[name] = folder = Path(output) / name
        if (folder / "train" / "meta.json").is_file():
            continue
        wanted, vocab = round(tokens * scale), model.config.vocab_size
        if name in KINDS:
            pair = (_answers(model, tokenizer, name, seed, heldout) for heldout in (False, True))
            _write_pair(folder, *pair, wanted, tokenizer, vocab)
        else:
            talk = name == "chat"
            documents = _chats(model, tokenizer, seed) if talk else _pieces(name, tokenizer, seed)
            _write(folder, documents, wanted, tokenizer, vocab)
        progress(f"{name}: written")
    return folders


def _write(
    folder: Path, documents: Iterator[list[int]], tokens: int, tokenizer: Tokenizer, vocab: int
) -> None:
    # The training file comes into place last: it says that both are whole.
    with (
        TokenWriter(folder / "train", vocab_size=vocab) as train,
        TokenWriter(folder / "heldout", vocab_size=vocab) as held,
    ):
        written = 0
        for index, ids in enumerate(documents):
            writer = held if index % _HELDOUT == 0 else train
            writer.add(ids, text_bytes=len(tokenizer.decode(ids).encode()))
            written += len(ids)
            if written >= tokens:
                break


def _write_pair(
    folder: Path,
    train: Iterator[list[int]],
    held: Iterator[list[int]],
    tokens: int,
    tokenizer: Tokenizer,
    vocab: int,
) -> None:
    """The same from documents that are apart already."""
    for part, documents, share in (("heldout", held, 1), ("train", train, _HELDOUT - 1)):
        with TokenWriter(folder / part, vocab_size=vocab) as writer:
            written = 0
            while written < tokens * share // _HELDOUT:
                ids = next(documents)
                writer.add(ids, text_bytes=len(tokenizer.decode(ids).encode()))
                written += len(ids)


def _answers(
    model: MiMoForCausalLM, tokenizer: Tokenizer, kind: str, seed: int, heldout: bool
) -> Iterator[list[int]]:
    """Answered requests of one kind, from the system's message to the end of the answer."""
    asked, end = requests(kind, seed=seed, heldout=heldout), list(model.config.eos_token_ids[:1])
    first = ((seed << 1) + heldout) << 32
    for n in range(first, first + (1 << 30), _BATCH):
        messages = [[{"role": "user", "content": next(asked)}] for _ in range(_BATCH)]
        prompts = [tokenizer.apply_chat(message) for message in messages]
        sampling = [
            Sampling(temperature=_TEMPERATURES[i % 4], max_tokens=_LONG_ANSWER, seed=n + i)
            for i in range(_BATCH)
        ]
        answers = generate(model, prompts, sampling=sampling, max_batch=_BATCH)
        for prompt, answer in zip(prompts, answers, strict=True):
            yield prompt + _without(answer.token_ids, end) + end


def _chats(model: MiMoForCausalLM, tokenizer: Tokenizer, seed: int) -> Iterator[list[int]]:
    """Conversations of one turn, from the system's message to the end of the answer."""
    opening, closing = _around_question(tokenizer)
    end = list(model.config.eos_token_ids[:1])
    for n in range(0, 1 << 30, _BATCH):
        seeds = [(seed << 32) + n + i for i in range(_BATCH)]
        asked = [Sampling(temperature=1.0, top_p=0.95, max_tokens=_QUESTION, seed=s) for s in seeds]
        questions = [
            opening + _without(done.token_ids, end) + closing
            for done in generate(model, [opening] * _BATCH, sampling=asked, max_batch=_BATCH)
        ]
        answered = [
            Sampling(temperature=float(i % 2), max_tokens=_ANSWER, seed=s)
            for i, s in enumerate(seeds)
        ]
        answers = generate(model, questions, sampling=answered, max_batch=_BATCH)
        for question, answer in zip(questions, answers, strict=True):
            yield question + _without(answer.token_ids, end) + end


def _around_question(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The chat template's tokens before and after what a user says."""
    word = "question"
    ids, middle = tokenizer.apply_chat([{"role": "user", "content": word}]), tokenizer.encode(word)
    at = next(i for i in range(len(ids)) if ids[i : i + len(middle)] == middle)
    return ids[:at], ids[at + len(middle) :]


def _without(ids: list[int], end: list[int]) -> list[int]:
    return ids[:-1] if ids[-1:] == end else list(ids)


def _pieces(name: str, tokenizer: Tokenizer, seed: int) -> Iterator[list[int]]:
    draw = random.Random(f"{name} {seed}")
    for text in TEXTS[name][0](random.Random(f"smollm2 {name} {seed}")):
        ids = tokenizer.encode(text)
        start = draw.randrange(max(1, len(ids) - _PIECE + 1))
        yield ids[start : start + _PIECE]
