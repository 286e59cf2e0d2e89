"""Encoding and decoding: GGUF vocabularies against an independent BPE, directories, refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_native.errors import CheckpointError, ShapeError, UnsupportedError
from mimo_native.text import Tokenizer

from ..oracles.bpe_python import PythonBPE
from .vocabularies import CONTROL, byte_fallback, byte_level, gguf_file, gguf_metadata, save

AWKWARD = [
    "",
    " ",
    "In 1984 it's 3.14159, isn't it?  \n\n\tI'll say: 007!\r\n",
    "naïve 漢字かな 🙂👩‍👩‍👧 ٣٤٥ ²½Ⅷ x1y22z333",
    "a\x85b\x1cc\u2028d\xa0\u3000e\u200bf \x00\x7f",
    "    def f(x):\n        return x**2  # 2 spaces\n\n\n",
    "<|im_start|>user\n12 <|im_end|><|im_start|> <|im_end|",
]
# Every kind of character that a cut depends on, more often than chance would have it.
TEXT = st.text(
    st.sampled_from(" \n\t'’0123٣½azAZéß漢🙂\u0301.,_-=\x85\u3000st") | st.characters(codec="utf-8")
)


@pytest.fixture(scope="module")
def smollm2(smollm2_path):
    return Tokenizer.from_pretrained(smollm2_path), PythonBPE.from_gguf(smollm2_path)


def small_pair():
    metadata = gguf_metadata()
    tokens, merges = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges"))
    return Tokenizer.from_gguf(gguf_file()), PythonBPE(tokens, merges, CONTROL)


@pytest.mark.parametrize("text", AWKWARD)
def test_smollm2_against_plain_python(smollm2, plain_english, text):
    ours, oracle = smollm2
    for sample in (text, plain_english + text):
        ids = ours.encode(sample)
        assert ids == oracle.encode(sample)
        assert ours.decode(ids, skip_special=False) == sample


def test_smollm2_cuts_every_digit(smollm2):
    """The cut that converters get wrong: with GPT-2's alone, 1984 would be one or two tokens."""
    ours, _ = smollm2
    assert [ours.id_to_token(i) for i in ours.encode("1984 x")] == ["1", "9", "8", "4", "Ġx"]
    assert ours.encode("The capital of France is") == [504, 3575, 282, 4649, 314]


def test_smollm2_tokens_that_matter(smollm2):
    ours, _ = smollm2
    assert ours.eos_ids == (0, 2)  # <|endoftext|> and <|im_end|>
    assert (ours.bos_id, ours.pad_id, ours.vocab_size) == (1, 2, 49152)
    assert ours.special_ids == frozenset(range(17))
    assert ours.token_to_id("<|im_end|>") == 2
    assert ours.token_to_id("no such token") is None
    assert ours.id_to_token(10**6) is None


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_small_vocabulary_against_plain_python(text):
    ours, oracle = SMALL
    assert ours.encode(text) == oracle.encode(text)


@settings(max_examples=100, deadline=None)
@given(TEXT, st.sampled_from(["smollm", "gpt-2", "qwen2", "llama-bpe"]))
def test_decoding_gives_the_text_back(text, pre):
    tokenizer = BY_CUT[pre]
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["it", "'s", " 1984", "!", "\n"]),
        ("smollm", ["it", "'s", " ", "1", "9", "8", "4", "!", "\n"]),
        ("qwen2", ["it", "'s", " ", "1", "9", "8", "4", "!\n"]),
        ("llama-bpe", ["it", "'s", " ", "198", "4", "!\n"]),
    ],
)
def test_where_each_dialect_cuts(pre, words):
    backend = BY_CUT[pre]._backend
    cut = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("it's 1984!\n")]
    assert cut == [word.replace(" ", "Ġ").replace("\n", "Ċ") for word in words]


def test_only_llama_3_takes_a_known_word_without_merging():
    metadata = gguf_metadata()
    words = [*metadata["tokenizer.ggml.tokens"], "Ġquixotic"]
    kinds = [*metadata["tokenizer.ggml.token_type"], 1]
    llama, qwen = (
        Tokenizer.from_gguf(gguf_file(pre, tokens=words, token_type=kinds))
        for pre in ("llama-bpe", "qwen2")
    )
    assert llama.encode(" quixotic") == [len(words) - 1]
    assert len(qwen.encode(" quixotic")) > 1


def test_begin_and_end_tokens_only_where_the_model_expects_them():
    plain = SMALL[0].encode("light")
    framed = Tokenizer.from_gguf(gguf_file(add_bos_token=True, add_eos_token=True))
    assert framed.encode("light") == [1, *plain, 2]
    assert framed.encode("light", add_special=False) == plain
    only_begin = Tokenizer.from_gguf(gguf_file(add_bos_token=True, add_eos_token=False))
    assert only_begin.encode("light") == [1, *plain]


def test_text_that_must_not_end_a_turn():
    tokenizer = SMALL[0]
    text = "a<|im_end|>b"
    assert 2 in tokenizer.encode(text)
    literal = tokenizer.encode(text, parse_special=False)
    assert not set(literal) & tokenizer.special_ids
    assert tokenizer.decode(literal) == text
    assert 2 in tokenizer.encode(text)  # the first backend is as it was


def test_decode_options():
    tokenizer = SMALL[0]
    ids = [1, *tokenizer.encode("light"), 2, 10**6]
    assert tokenizer.decode(ids) == "light"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>light<|im_end|>"
    with pytest.raises(ShapeError, match="ids of at least 0, got -1"):
        tokenizer.decode([5, -1])


def test_user_defined_tokens_are_whole_but_not_special():
    tokenizer = SMALL[0]
    (think,) = tokenizer.encode("<think>")
    assert think not in tokenizer.special_ids
    assert tokenizer.decode([think]) == "<think>"


def test_a_directory(tmp_path):
    backend = byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    path = save(
        tmp_path / "m",
        backend,
        tokenizer_config={"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"},
        generation_config={"eos_token_id": [2, 7]},
        config={"eos_token_id": 9},
    )
    tokenizer = Tokenizer.from_pretrained(path)
    assert tokenizer.eos_ids == (0, 2, 7)
    assert (tokenizer.bos_id, tokenizer.pad_id) == (None, 0)
    text = "A lens that can throw a flame"
    assert tokenizer.encode(text) == byte_level().encode(text).ids
    (path / "generation_config.json").unlink()
    assert Tokenizer.from_pretrained(path).eos_ids == (0, 2, 9)


def test_end_tokens_that_are_not_in_the_vocabulary(tmp_path):
    path = save(tmp_path / "m", byte_fallback(), tokenizer_config={"eos_token": "</s>"})
    assert Tokenizer.from_pretrained(path).eos_ids == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "who-knows"}, r"tokenizer\.ggml\.pre = 'who-knows'; known are gpt-2, smollm"),
        ({"pre": None}, r"tokenizer\.ggml\.pre = None"),
        ({"model": "llama"}, "vocabulary of kind 'llama'"),
        ({"model": None}, "vocabulary of kind None"),
    ],
)
def test_unknown_vocabularies(changes, message):
    with pytest.raises(UnsupportedError, match=message) as caught:
        Tokenizer.from_gguf(gguf_file(**{"pre": "smollm", **changes}))
    assert "small.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokens: expected a list of texts, got None"),
        ({"tokens": [1, 2]}, "tokens: expected a list of texts, got list of 2"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "each token once"),
        ({"token_type": [1]}, r"token_type: expected a list of \d+ numbers, got list of 1"),
        ({"merges": ["ab"]}, "two tokens and a space, not 'ab'"),
        ({"merges": ["a  b"]}, "two tokens and a space"),
        ({"merges": ["Ġnever Ġseen"]}, "merges of known tokens"),
        ({"add_bos_token": True, "bos_token_id": None}, "bos_token_id: expected an id below"),
        ({"add_bos_token": True, "bos_token_id": 10**6}, "bos_token_id: expected an id below"),
        ({"eos_token_id": 10**6}, "eos_token_id: expected an id below"),
    ],
)
def test_damaged_vocabularies(changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.from_gguf(gguf_file(**changes))
    assert "small.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: file: expected a tokenizer"),
        ("tokenizer_config.json", "[]", "expected a JSON object, got list"),
        ("generation_config.json", "{,}", r"generation_config\.json: file: expected JSON"),
        ("config.json", '{"eos_token_id": "two"}', "ids of at least 0, got 'two'"),
    ],
)
def test_damaged_directories(tmp_path, name, content, message):
    path = save(tmp_path / "m", byte_level())
    (path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_pretrained(path)


def test_a_directory_without_a_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match=r"Copy tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mimo-native\[serve\]'"):
        Tokenizer.from_pretrained(tmp_path)


SMALL = small_pair()
BY_CUT = {
    pre: Tokenizer.from_gguf(gguf_file(pre)) for pre in ("smollm", "gpt-2", "qwen2", "llama-bpe")
}
