"""A corpus on disk: token ids end to end, memory-mapped, and where each document begins.

A directory with ``tokens.bin`` (uint16, or uint32 for vocabularies above 65,536), ``documents.npy``
(int64 [documents + 1], offsets into it) and ``meta.json``.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ...errors import CheckpointError, ShapeError
from ...weights.files import read_json

__all__ = ["TokenFile", "TokenWriter"]

_TOKENS, _DOCUMENTS, _META = "tokens.bin", "documents.npy", "meta.json"


class TokenFile:
    """Read access to a token file; nothing is loaded but the document index.

    tokens    int array [tokens], memory-mapped
    offsets   int64 [documents + 1]: document d is tokens[offsets[d] : offsets[d + 1]]
    bytes     UTF-8 length of the text that the tokens stand for
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        meta = read_json(self.path / _META)
        where = str(self.path)
        try:
            self.vocab_size, self.bytes = int(meta["vocab_size"]), int(meta["bytes"])
            dtype, count = np.dtype(meta["dtype"]), int(meta["tokens"])
            self.offsets: np.ndarray = np.load(self.path / _DOCUMENTS)
            size = (self.path / _TOKENS).stat().st_size
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise CheckpointError(
                where, "token file", expected="what `prepare` writes", got=str(error)
            ) from None
        if size != count * dtype.itemsize or int(self.offsets[-1]) != count:
            raise CheckpointError(
                where,
                _TOKENS,
                expected=f"{count} tokens of {dtype}",
                got=f"{size} bytes, documents that end at {int(self.offsets[-1])}",
                remedy="Prepare the corpus again.",
            )
        if count == 0:
            raise CheckpointError(
                where, "tokens", expected="at least one document with a token", got="none"
            )
        self.tokens = np.memmap(self.path / _TOKENS, dtype=dtype, mode="r", shape=(count,))

    def __len__(self) -> int:
        """Tokens in all documents."""
        return len(self.tokens)

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / len(self)

    def document(self, index: int) -> np.ndarray:
        """Token ids of one document, int64."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.tokens[start:stop].astype(np.int64)


class TokenWriter:
    """Writes a token file document by document, into place only once it is whole.

        with TokenWriter(path, vocab_size=4096) as writer:
            writer.add(ids, text_bytes=12)

    Raises ShapeError for an id outside the vocabulary, CheckpointError for an empty corpus or a
    disk that cannot be written; an earlier file at ``path`` is then as it was.
    """

    def __init__(self, path: str | Path, *, vocab_size: int) -> None:
        self.path, self.vocab_size = Path(path), vocab_size
        self.dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._offsets = [0]
        self._bytes = 0

    def __enter__(self) -> "TokenWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stage = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        self._stream = (self._stage / _TOKENS).open("wb")
        return self

    def add(self, ids: Sequence[int] | np.ndarray, *, text_bytes: int) -> None:
        """Append one document; an empty one leaves no trace."""
        array = np.asarray(ids, dtype=np.int64)
        if array.size == 0:
            return
        if array.min() < 0 or array.max() >= self.vocab_size:
            raise ShapeError(
                "prepare",
                f"document {len(self._offsets) - 1}",
                expected=f"token ids in [0, {self.vocab_size})",
                got=f"[{array.min()}, {array.max()}]",
                remedy="Use the tokenizer of the model that will be trained.",
            )
        self._stream.write(array.astype(self.dtype).tobytes())
        self._offsets.append(self._offsets[-1] + array.size)
        self._bytes += text_bytes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stream.close()
            if kind is None:
                self._finish()
        except OSError as failure:
            raise CheckpointError(
                str(self.path), "file", expected="a place that can be written", got=str(failure)
            ) from failure
        finally:
            shutil.rmtree(self._stage, ignore_errors=True)

    def _finish(self) -> None:
        if self._offsets[-1] == 0:
            raise CheckpointError(
                str(self.path), "corpus", expected="at least one document with text", got="none"
            )
        np.save(self._stage / _DOCUMENTS, np.asarray(self._offsets, dtype=np.int64))
        meta: dict[str, Any] = {
            "dtype": self.dtype.name,
            "vocab_size": self.vocab_size,
            "tokens": self._offsets[-1],
            "documents": len(self._offsets) - 1,
            "bytes": self._bytes,
        }
        (self._stage / _META).write_text(json.dumps(meta, indent=2) + "\n")
        old = None
        if self.path.exists():
            old = self._stage.with_name(self._stage.name + "-old")
            os.replace(self.path, old)
        os.replace(self._stage, self.path)
        if old is not None:
            shutil.rmtree(old)
