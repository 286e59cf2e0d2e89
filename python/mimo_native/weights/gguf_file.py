"""The container of a GGUF file: header, metadata and tensor table, read without the weights.

    "GGUF" | version u32 | tensors u64 | pairs u64
    pairs x   { key: string | type u32 | value }
    tensors x { name: string | dims u32 | dims x u64 | encoding u32 | offset u64 }
    padding to `general.alignment` (32) | tensor data, each tensor at a multiple of the alignment

Strings are a u64 length and UTF-8 bytes; dims are listed fastest first. Every read is checked
against the bytes that are left before anything is allocated, and stops at the first that is too
long: a damaged file costs an error and nothing else.

Source: the GGUF specification of the ggml project, versions 2 and 3 in little endian.
"""

import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from ..errors import CheckpointError, UnsupportedError
from .gguf_quants import ENCODINGS, Encoding

__all__ = ["GGUFFile", "GGUFTensor", "Value"]

Value = bool | int | float | str | list["bool | int | float | str"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_DIMS = 4
_HEAD_BYTES = 24  # magic, version and both counts
_FRESH_COPY = "The file is damaged or incomplete; fetch it again."


@dataclass(frozen=True)
class GGUFTensor:
    """A row of the tensor table: ``shape`` slowest first, ``offset`` from the file's start."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        return self.encoding.row_bytes(self.shape[-1])

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class GGUFFile:
    """Metadata and tensor table of one file. Holds no handle and no weights."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, GGUFTensor]
    metadata_end: int = 0  # the byte after the last pair

    def copy_metadata(self, target: Path) -> None:
        """Write a GGUF file that has the metadata of this one, a tokenizer say, and no tensors."""
        with self.path.open("rb") as source, target.open("wb") as stream:
            head = source.read(_HEAD_BYTES)
            stream.write(head[:8] + bytes(8) + head[16:])
            stream.write(source.read(self.metadata_end - _HEAD_BYTES))

    @classmethod
    def read(cls, path: str | Path) -> "GGUFFile":
        """Parse the header of ``path``.

        Raises CheckpointError if the file is missing, is not GGUF, or is truncated or inconsistent
        anywhere, including tensor data that would reach past the end; UnsupportedError for a
        version or byte order this reader does not know.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise _not_gguf(path, "an empty file")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return _parse(path, data)
        except OSError as error:
            raise CheckpointError(
                str(path), "file", expected="a readable file", got=str(error)
            ) from error


def _not_gguf(path: Path, got: str) -> CheckpointError:
    remedy = "Only GGUF files and directories with safetensors can be read."
    return CheckpointError(str(path), "magic", expected="b'GGUF'", got=got, remedy=remedy)


class _Cursor:
    """Reads values one after another and refuses to step over the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at, self.size = path, data, 0, len(data)

    def fail(self, argument: str, *, expected: str, got: str) -> NoReturn:
        raise CheckpointError(
            str(self.path), argument, expected=expected, got=got, remedy=_FRESH_COPY
        )

    def need(self, count: int, what: str) -> None:
        left = self.size - self.at
        if count > left:
            self.fail(what, expected=f"{count} bytes at offset {self.at}", got=f"{left} bytes left")

    def scalar(self, code: str, what: str) -> int | float:
        size = struct.calcsize("<" + code)
        self.need(size, what)
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return value

    def u32(self, what: str) -> int:
        return int(self.scalar("I", what))

    def u64(self, what: str) -> int:
        return int(self.scalar("Q", what))

    def string(self, what: str) -> str:
        length = self.u64(what)
        self.need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(what, expected="UTF-8 text", got=str(error))

    def boolean(self, what: str) -> bool:
        value = self.scalar("B", what)
        if value > 1:
            self.fail(what, expected="a boolean, 0 or 1", got=str(value))
        return bool(value)

    def value(self, kind: int, what: str) -> Value:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind], what)
        if kind == _BOOL:
            return self.boolean(what)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what)
        self.fail(what, expected="a value type from 0 to 12", got=str(kind))

    def array(self, what: str) -> Value:
        kind, count = self.u32(what), self.u64(what)
        if kind in _SCALARS:
            code = _SCALARS[kind]
            size = struct.calcsize("<" + code) * count
            self.need(size, what)
            values = list(struct.unpack_from(f"<{count}{code}", self.data, self.at))
            self.at += size
            return values
        if kind == _BOOL:
            return [self.boolean(what) for _ in range(count)]
        if kind == _STRING:
            return [self.string(what) for _ in range(count)]
        self.fail(what, expected="an array of numbers, booleans or strings", got=f"type {kind}")


def _parse(path: Path, data: mmap.mmap) -> GGUFFile:
    cursor = _Cursor(path, data)
    if data[:4] != b"GGUF":
        raise _not_gguf(path, repr(data[:4]))
    cursor.at = 4
    version = cursor.u32("version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        kind = "a big-endian file" if swapped in (2, 3) else f"GGUF version {version}"
        raise UnsupportedError(
            str(path),
            [f"{kind}; versions 2 and 3 in little endian are read"],
            remedy="Convert the model again with a current converter.",
        )
    tensor_count, pair_count = cursor.u64("tensor count"), cursor.u64("metadata count")
    metadata = _read_metadata(cursor, pair_count)
    metadata_end = cursor.at
    table = [_read_tensor_row(cursor) for _ in range(tensor_count)]
    places = MappingProxyType(_place(cursor, table, metadata))
    return GGUFFile(path, MappingProxyType(metadata), places, metadata_end)


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(count):
        key = cursor.string(f"key {index}")
        if key in metadata:
            cursor.fail("metadata", expected="each key once", got=f"{key!r} twice")
        metadata[key] = cursor.value(cursor.u32(key), key)
    return metadata


def _read_tensor_row(cursor: _Cursor) -> GGUFTensor:
    name = cursor.string("tensor name")
    dims = cursor.u32(name)
    if not 1 <= dims <= _MAX_DIMS:
        cursor.fail(name, expected=f"1 to {_MAX_DIMS} dimensions", got=str(dims))
    shape = tuple(cursor.u64(name) for _ in range(dims))[::-1]
    code = cursor.u32(name)
    if code not in ENCODINGS:
        cursor.fail(name, expected="a known tensor encoding", got=f"encoding number {code}")
    encoding = ENCODINGS[code]
    if min(shape) < 1 or shape[-1] % encoding.block_values:
        cursor.fail(
            name,
            expected=f"positive sizes, rows a multiple of {encoding.block_values}",
            got=f"{list(shape)} as {encoding.name}",
        )
    return GGUFTensor(name, shape, encoding, cursor.u64(name))


def _place(
    cursor: _Cursor, table: list[GGUFTensor], metadata: Mapping[str, Value]
) -> dict[str, GGUFTensor]:
    """Make offsets count from the file's start, and check that the tensors fit side by side."""
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        cursor.fail("general.alignment", expected="a power of two", got=repr(alignment))
    start = -(-cursor.at // alignment) * alignment
    placed: dict[str, GGUFTensor] = {}
    end = start
    for row in sorted(table, key=lambda row: row.offset):
        tensor = GGUFTensor(row.name, row.shape, row.encoding, start + row.offset)
        if tensor.name in placed:
            cursor.fail("tensor table", expected="each name once", got=f"{tensor.name!r} twice")
        if row.offset % alignment or tensor.offset < end:
            cursor.fail(
                tensor.name,
                expected=f"an offset at a multiple of {alignment}, behind the tensor before it",
                got=str(row.offset),
            )
        end = tensor.offset + tensor.nbytes
        if end > cursor.size:
            cursor.fail(tensor.name, expected=f"data up to byte {end}", got=f"{cursor.size} bytes")
        placed[tensor.name] = tensor
    return placed
