"""Builds a tokenizer from the vocabulary that a GGUF file carries in its metadata.

Byte-level BPE only. What distinguishes its dialects is how text is cut before merging; the file
names that by ``tokenizer.ggml.pre``, and a name not listed here is refused: a wrong cut still
looks right, it just makes the model worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import CheckpointError, UnsupportedError
from ..weights.gguf_file import GGUFFile, Value

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

__all__ = ["backend_from_gguf"]

_WHERE = "GGUF tokenizer"
_CONTROL, _USER_DEFINED = 3, 4

# Where numbers are cut: as GPT-2 does, digit by digit first, or by a pattern of the model's own.
_GPT2 = ("gpt-2",)
_DIGITS_THEN_GPT2 = ("smollm", "starcoder", "refact", "codeshell")
_CONTRACTION_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOL_SPACE = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    "qwen2": rf"{_CONTRACTION_WORD}|\p{{N}}|{_SYMBOL_SPACE}",
    "llama-bpe": rf"{_CONTRACTION_WORD}|\p{{N}}{{1,3}}|{_SYMBOL_SPACE}",
}


def backend_from_gguf(file: GGUFFile) -> Tokenizer:
    """The ``tokenizers`` object for the vocabulary in ``file``.

    Raises UnsupportedError for another kind of vocabulary or an unknown pre-tokenizer,
    CheckpointError for missing or contradictory entries.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    metadata = file.metadata
    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        reason = (
            f"{file.path} holds a vocabulary of kind {kind!r}; only 'gpt2' (byte-level) is read"
        )
        raise UnsupportedError(_WHERE, [reason], remedy="Use a directory with tokenizer.json.")
    pre_tokenizer = _pre_tokenizer(file, pre)
    tokens = _texts(file, "tokenizer.ggml.tokens")
    merges = [_pair(file, merge) for merge in _texts(file, "tokenizer.ggml.merges")]
    types = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise _damaged(file, "tokenizer.ggml.token_type", f"a list of {len(tokens)} numbers")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise _damaged(file, "tokenizer.ggml.tokens", "each token once")
    try:
        # Llama 3 takes a word that is a token as it is, even where merging would not arrive at it.
        model = models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the binding raises plain Exception
        raise _damaged(
            file, "tokenizer.ggml.merges", f"merges of known tokens ({error})"
        ) from error
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    for token, kind_of_token in zip(tokens, types, strict=True):
        if kind_of_token == _CONTROL:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind_of_token == _USER_DEFINED:
            backend.add_tokens([AddedToken(token, special=False, normalized=False)])
    _add_affixes(file, backend, tokens)
    return backend


def _pre_tokenizer(file: GGUFFile, pre: Value | None) -> PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _GPT2:
        return gpt2
    if pre in _DIGITS_THEN_GPT2:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt2])
    if pre in _PATTERNS:
        cut = pre_tokenizers.Split(Regex(_PATTERNS[str(pre)]), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([cut, bytes_only])
    known = ", ".join([*_GPT2, *_DIGITS_THEN_GPT2, *_PATTERNS])
    reason = f"{file.path} cuts text by tokenizer.ggml.pre = {pre!r}; known are {known}"
    raise UnsupportedError(_WHERE, [reason], remedy="Use a directory with tokenizer.json.")


def _texts(file: GGUFFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise _damaged(file, key, "a list of texts")
    return [str(text) for text in value]


def _pair(file: GGUFFile, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right) or " " in right:
        raise _damaged(file, "tokenizer.ggml.merges", f"two tokens and a space, not {merge!r}")
    return left, right


def _add_affixes(file: GGUFFile, backend: Tokenizer, tokens: list[str]) -> None:
    """Let encode() add begin and end tokens where the file says that the model expects them."""
    from tokenizers import processors

    def affix(name: str) -> list[tuple[str, int]]:
        if not file.metadata.get(f"tokenizer.ggml.add_{name}_token", False):
            return []
        key = f"tokenizer.ggml.{name}_token_id"
        index = token_id(file.metadata, name)
        if index is None or index >= len(tokens):
            raise _damaged(file, key, f"an id below {len(tokens)}")
        return [(tokens[index], index)]

    begin, end = affix("bos"), affix("eos")
    if begin or end:
        parts = [*(token for token, _ in begin), "$A", *(token for token, _ in end)]
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join(parts), special_tokens=begin + end
        )


def token_id(metadata: Mapping[str, Value], name: str) -> int | None:
    """The id stored as ``tokenizer.ggml.NAME_token_id``, if there is one."""
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    return value if type(value) is int else None


def _damaged(file: GGUFFile, key: str, expected: str) -> CheckpointError:
    value = file.metadata.get(key)
    got = f"{type(value).__name__} of {len(value)}" if isinstance(value, list) else repr(value)[:80]
    remedy = "The file is damaged or was written by an outdated converter; fetch it again."
    return CheckpointError(str(file.path), key, expected=expected, got=got, remedy=remedy)
