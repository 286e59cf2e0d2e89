"""What the tokenizer and configuration files of a hub checkpoint say about its text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .chat import ChatTemplate
from .mimo_template import MIMO_TEMPLATE

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["backend_from_json", "chat_template", "declared_ids", "special_texts"]


def backend_from_json(directory: Path) -> Tokenizer:
    """The tokenizer in ``directory``/tokenizer.json; CheckpointError if missing or damaged."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    try:
        return Tokenizer.from_str(path.read_text("utf-8"))
    except Exception as error:  # the binding raises plain Exception
        raise CheckpointError(
            str(path),
            "file",
            expected="a tokenizer of the `tokenizers` package",
            got=str(error),
            remedy="Copy tokenizer.json and tokenizer_config.json of the model beside its weights.",
        ) from error


def special_texts(directory: Path) -> dict[str, str]:
    """The texts of bos_token, eos_token, pad_token, unk_token that tokenizer_config.json names."""
    config = _json(directory / "tokenizer_config.json")
    texts = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            texts[name] = value
    return texts


def declared_ids(directory: Path, key: str) -> set[int]:
    """The ids under ``key``, one or a list, in generation_config.json, else in config.json."""
    for name in ("generation_config.json", "config.json"):
        value = _json(directory / name).get(key)
        if value is not None:
            ids = value if isinstance(value, list) else [value]
            if any(type(index) is not int or index < 0 for index in ids):
                raise CheckpointError(
                    str(directory / name), key, expected="ids of at least 0", got=repr(value)
                )
            return set(ids)
    return set()


def chat_template(directory: Path, texts: Mapping[str, str]) -> ChatTemplate | None:
    """chat_template.jinja, else tokenizer_config.json's, else the built-in one for MiMo models."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return ChatTemplate(path.read_text("utf-8"), texts)
    source = _json(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(source, list):
        named = {entry.get("name"): entry.get("template") for entry in source}
        source = named.get("default")
    if isinstance(source, str):
        return ChatTemplate(source, texts)
    kind = _json(directory / "config.json").get("model_type")
    if isinstance(kind, str) and kind.startswith("mimo_v2"):
        return ChatTemplate(MIMO_TEMPLATE, texts)
    return None


def _json(path: Path) -> dict[str, object]:
    """The object in ``path``, empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(str(path), "file", expected="JSON", got=str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(str(path), "file", expected="a JSON object", got=type(value).__name__)
    return value
