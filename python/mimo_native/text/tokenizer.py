"""Text to token ids and back, for tokenizer.json directories and for GGUF files.

The work is done by the ``tokenizers`` package, which is imported when a tokenizer is first loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ShapeError, UnsupportedError
from ..weights.gguf_file import GGUFFile
from .chat import ChatTemplate, Message
from .gguf_vocab import backend_from_gguf, token_id
from .hub_files import backend_from_json, chat_template, declared_ids, special_texts
from .stream import ByteStream, TextStream, WindowStream, token_bytes

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer"]

# Tokens that end an answer in the families that have them, whether or not the files say so.
_END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")


class Tokenizer:
    """Encodes and decodes; knows the special tokens and the chat template. Safe to share by
    threads.

    ``eos_ids`` are all ids that end generation, ascending; ``bos_id`` and ``pad_id`` may be None;
    ``chat`` is None if the model has no chat template.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_ids: Iterable[int] = (),
        bos_id: int | None = None,
        pad_id: int | None = None,
        chat: ChatTemplate | None = None,
    ) -> None:
        from tokenizers import decoders

        # A saved tokenizer may ask for truncation or padding; prompts are never cut or filled here.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._byte_level = isinstance(backend.decoder, decoders.ByteLevel)
        self._bytes: dict[int, bytes] = {}
        self.special_ids = frozenset(
            index for index, token in backend.get_added_tokens_decoder().items() if token.special
        )
        ends = {backend.token_to_id(text) for text in _END_TEXTS}
        self.eos_ids = tuple(sorted({*eos_ids, *(ends & self.special_ids)}))
        self.bos_id, self.pad_id, self.chat = bos_id, pad_id, chat

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Tokenizer:
        """Load from a directory with tokenizer.json or tokenizer.gguf, or a GGUF file's metadata.

        Raises CheckpointError if files are missing or damaged, UnsupportedError if the package
        ``tokenizers`` is missing or the GGUF vocabulary is of a kind that is not read.
        """
        path = Path(path)
        _require_package()
        converted = path / "tokenizer.gguf"
        if converted.is_file() and not (path / "tokenizer.json").exists():
            return cls.from_gguf(GGUFFile.read(converted))
        return cls._from_directory(path) if path.is_dir() else cls.from_gguf(GGUFFile.read(path))

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Load from the metadata of ``file``; errors as for ``from_pretrained``."""
        _require_package()
        backend = backend_from_gguf(file)
        ids = {
            name: token_id(file.metadata, name) for name in ("bos", "eos", "eot", "eom", "padding")
        }
        for name, index in ids.items():
            if index is not None and not 0 <= index < backend.get_vocab_size():
                raise CheckpointError(
                    str(file.path),
                    f"tokenizer.ggml.{name}_token_id",
                    expected=f"an id below {backend.get_vocab_size()}",
                    got=str(index),
                )
        ends = [index for name in ("eos", "eot", "eom") if (index := ids[name]) is not None]
        source = file.metadata.get("tokenizer.chat_template")
        texts = {
            f"{name}_token": backend.id_to_token(index)
            for name in ("bos", "eos")
            if (index := ids[name]) is not None
        }
        chat = ChatTemplate(source, texts) if isinstance(source, str) else None
        return cls(backend, eos_ids=ends, bos_id=ids["bos"], pad_id=ids["padding"], chat=chat)

    @classmethod
    def _from_directory(cls, path: Path) -> Tokenizer:
        backend = backend_from_json(path)
        texts = special_texts(path)
        ids = {name: backend.token_to_id(text) for name, text in texts.items()}
        ends = {*declared_ids(path, "eos_token_id"), ids.get("eos_token")} - {None}
        return cls(
            backend,
            eos_ids=[index for index in ends if index is not None],
            bos_id=ids.get("bos_token"),
            pad_id=ids.get("pad_token"),
            chat=chat_template(path, texts),
        )

    @property
    def vocab_size(self) -> int:
        """Tokens with a text. A model's embedding may have more rows, padded to a round number."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of ``text``.

        ``add_special`` adds begin and end tokens where the model expects them: turn it off for
        rendered chat templates, which write their own. ``parse_special`` off reads "<|im_end|>" in
        ``text`` as characters: for text that must not be able to end a turn.
        """
        backend = self._backend if parse_special else self._literal
        return list(backend.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ``ids``: broken characters become U+FFFD, ids without a token become nothing."""
        for index in ids:
            if index < 0:
                raise ShapeError("decode", "ids", expected="ids of at least 0", got=str(index))
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special))

    def stream(self, *, skip_special: bool = True) -> TextStream:
        """A decoder for one sequence, fed id by id; its pieces join to ``decode`` of all ids."""
        if self._byte_level:
            skipped = self.special_ids if skip_special else frozenset()
            return ByteStream(lambda index: b"" if index in skipped else self._token_bytes(index))
        return WindowStream(lambda ids: self.decode(list(ids), skip_special=skip_special))

    def apply_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Token ids of the rendered conversation; see ``ChatTemplate.render``."""
        if self.chat is None:
            raise UnsupportedError(
                "apply_chat",
                ["the model has no chat template"],
                remedy="Pass plain text, or put a chat_template.jinja beside the tokenizer.",
            )
        text = self.chat.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=enable_thinking,
        )
        return self.encode(text, add_special=False)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token written as in the vocabulary, e.g. "<|im_end|>"."""
        return self._backend.token_to_id(token)

    def id_to_token(self, index: int) -> str | None:
        """The inverse of ``token_to_id``."""
        return self._backend.id_to_token(index)

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        # The switch belongs to a whole backend object, so a second one keeps threads apart.
        backend = copy.deepcopy(self._backend)
        backend.encode_special_tokens = True
        return backend

    def _token_bytes(self, index: int) -> bytes:
        if index not in self._bytes:
            self._bytes[index] = token_bytes(self._backend.id_to_token(index) or "")
        return self._bytes[index]


def _require_package() -> None:
    try:
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            "Tokenizer",
            ["the package tokenizers is not installed"],
            remedy="Run `pip install 'mimo-native[serve]'`.",
        ) from error
