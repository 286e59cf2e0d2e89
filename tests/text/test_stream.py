"""Streaming decode: whole characters only, and nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_native.text import Tokenizer
from mimo_native.text.stream import WindowStream

from ..oracles.bpe_python import byte_chars
from .vocabularies import byte_fallback, byte_level

BYTES = Tokenizer(byte_level())
WINDOW = Tokenizer(byte_fallback())
BYTE_IDS = [BYTES.token_to_id(char) for char in byte_chars()]


def pieces(tokenizer, ids, **options):
    stream = tokenizer.stream(**options)
    return [*(stream.push(index) for index in ids), stream.flush()]


@given(st.lists(st.integers(0, 650)), st.booleans())
def test_any_ids_join_to_decode(ids, skip):
    """Including specials, ids without a token, and byte sequences that are no text at all."""
    joined = "".join(pieces(BYTES, ids, skip_special=skip))
    assert joined == BYTES.decode(ids, skip_special=skip)


@given(st.lists(st.integers(0, 255), max_size=12))
def test_any_bytes_join_to_decode(raw):
    ids = [BYTE_IDS[byte] for byte in raw]
    assert "".join(pieces(BYTES, ids)) == BYTES.decode(ids) == bytes(raw).decode("utf-8", "replace")


@given(st.text())
def test_pieces_of_a_text_are_whole_characters(text):
    """One token a byte, so that every character is cut wherever it can be."""
    ids = [BYTE_IDS[byte] for byte in text.encode()]
    sent = ""
    stream = BYTES.stream()
    for count, index in enumerate(ids, 1):
        sent += stream.push(index)
        whole = text.encode()[:count].decode("utf-8", "ignore")
        assert sent == whole  # as much as can be known, and no more
    assert stream.flush() == ""


@given(st.text())
def test_window_stream_of_a_text(text):
    ids = WINDOW.encode(text)
    parts = pieces(WINDOW, ids)
    assert "".join(parts) == WINDOW.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


@given(st.lists(st.sampled_from(["▁hell", "▁he", "ll", "o", "▁", "é", "a"])))
def test_window_stream_keeps_spaces(tokens):
    """The first word loses its space in decode, later ones keep theirs: context matters."""
    ids = [WINDOW.token_to_id(token) for token in tokens]
    assert "".join(pieces(WINDOW, ids)) == WINDOW.decode(ids)


@pytest.mark.parametrize("tokenizer", [BYTES, WINDOW], ids=["bytes", "window"])
def test_an_unfinished_character_comes_out_at_the_end(tokenizer):
    euro = [BYTE_IDS[b] if tokenizer is BYTES else 3 + b for b in "€".encode()]
    assert pieces(tokenizer, euro) == ["", "", "€", ""]
    cut = pieces(tokenizer, euro[:2])
    assert cut[:2] == ["", ""]
    assert set(cut[2]) == {"\ufffd"}


@pytest.mark.parametrize("tokenizer", [BYTES, WINDOW], ids=["bytes", "window"])
def test_a_stream_can_be_used_again_after_flush(tokenizer):
    ids = tokenizer.encode("he called")
    stream = tokenizer.stream()
    first = "".join(map(stream.push, ids)) + stream.flush()
    assert "".join(map(stream.push, ids)) + stream.flush() == first == "he called"


def test_the_window_stays_small():
    longest = 0

    def decode(ids):
        nonlocal longest
        longest = max(longest, len(ids))
        return WINDOW.decode(ids)

    stream = WindowStream(decode)
    ids = WINDOW.encode("hello € " * 20)
    assert "".join(map(stream.push, ids)) + stream.flush() == WINDOW.decode(ids)
    assert longest < 9  # a character of three bytes after one, and a little


def test_streams_do_not_share_state():
    euro = [BYTE_IDS[byte] for byte in "€".encode()]
    one, two = BYTES.stream(), BYTES.stream()
    assert one.push(euro[0]) == two.push(euro[0]) == ""
    assert one.push(euro[1]) == ""
    assert one.push(euro[2]) == "€"
    assert two.push(euro[1]) + two.push(euro[2]) == "€"
