"""Text, JSONL and Parquet to token files."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ...errors import CheckpointError, UnsupportedError
from .order import order
from .token_file import TokenFile, TokenWriter

__all__ = ["is_heldout", "prepare", "read_texts"]

_BATCH = 1000


def prepare(
    sources: Iterable[str | Path],
    output: str | Path,
    *,
    encode: Callable[[str], list[int]],
    vocab_size: int,
    end_id: int | None,
    field: str = "text",
    heldout: float = 0.0,
) -> TokenFile:
    """Tokenise ``sources`` into ``output``/train, and a share ``heldout`` into ``output``/heldout.

    sources: files (.jsonl with ``field`` per line, .parquet likewise, else one document per file),
    or directories of them in sorted order. end_id closes every document. The held-out documents
    are chosen by their number alone. Raises CheckpointError for a corpus without text or a damaged
    line, ShapeError for ids outside the vocabulary, UnsupportedError without the package that
    reads Parquet; earlier token files are then as they were.
    """
    output = Path(output)
    texts = read_texts(sources, field=field)
    with TokenWriter(output / "train", vocab_size=vocab_size) as train:
        if not heldout:
            for text in texts:
                _add(train, text, encode, end_id)
        else:
            with TokenWriter(output / "heldout", vocab_size=vocab_size) as held:
                for index, text in enumerate(texts):
                    _add(held if is_heldout(index, heldout) else train, text, encode, end_id)
    return TokenFile(output / "train")


def _add(
    writer: TokenWriter, text: str, encode: Callable[[str], list[int]], end_id: int | None
) -> None:
    ids = encode(text)
    if ids and end_id is not None:
        ids = [*ids, end_id]
    writer.add(ids, text_bytes=len(text.encode("utf-8", "surrogatepass")))


def is_heldout(index: int, share: float) -> bool:
    """Every block of 1000 documents gives the same share, at drawn places."""
    block, at = divmod(index, _BATCH)
    return bool(order(_BATCH, block)[at] < share * _BATCH)


def read_texts(sources: Iterable[str | Path], *, field: str) -> Iterator[str]:
    """The documents of files and directories, one string each."""
    for source in sources:
        path = Path(source)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.suffix == ".jsonl":
                yield from _jsonl(file, field)
            elif file.suffix == ".parquet":
                yield from _parquet(file, field)
            else:
                yield _plain(file)


def _plain(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            str(file), "file", expected="readable UTF-8 text", got=str(error)
        ) from None


def _jsonl(file: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_plain(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                str(file),
                f"line {number}",
                expected=f"a JSON object with {field!r}",
                got=f"{type(error).__name__}: {error}",
            ) from None
        yield str(text)


def _parquet(file: Path, field: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise UnsupportedError(
            "prepare",
            [f"{file.name}: Parquet needs the package datasets"],
            remedy="Run `pip install datasets`, or convert the file to JSONL.",
        ) from error
    table = datasets.Dataset.from_parquet(str(file))
    if field not in table.column_names:
        raise CheckpointError(
            str(file), "columns", expected=f"{field!r}", got=", ".join(table.column_names)
        )
    for example in table.select_columns(field):
        yield str(example[field])
