"""The head of a safetensors file, checked to the byte: names, dtypes, shapes and places.

Layout: 8 bytes length n (little endian), n bytes of JSON, then the tensors without gaps.
"""

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

__all__ = ["BITS", "StoredTensor", "read_header"]

BITS = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"], 8),
    **dict.fromkeys(["F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 16),
    **dict.fromkeys(["U32", "I32", "F32"], 32),
    **dict.fromkeys(["U64", "I64", "F64", "C64"], 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in a file: ``nbytes`` from byte ``start``."""

    name: str
    dtype: str  # as safetensors spells it: BF16, F32, F8_E4M3, ...
    shape: tuple[int, ...]
    file: Path
    start: int
    nbytes: int


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of ``file`` in file order, without touching their data.

    Raises ``CheckpointError`` where the file is missing, cut short, longer than its tensors, names
    a tensor twice, or has a header that is no header.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise _damaged(file, f"a header of {length} bytes", f"a file of {size} bytes")
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(
            str(file),
            "file",
            expected="a safetensors file",
            got=error.strerror or str(error),
            remedy="Fetch the missing file.",
        ) from None
    header = _parse(file, text)
    header.pop("__metadata__", None)
    tensors = [_tensor(file, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise _damaged(file, f"{tensor.name} at byte {end}", f"byte {tensor.start}")
        end += tensor.nbytes
    if end != size:
        raise _damaged(file, f"{end} bytes", f"{size} bytes")
    return tensors


def _damaged(file: Path, expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        str(file),
        "contents",
        expected=expected,
        got=got,
        remedy="The file is cut short or damaged: fetch it again.",
    )


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise _damaged(file, "every name once", f"{twice[0]} twice")
        return dict(pairs)

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged(file, "a JSON header", str(error)) from None
    if not isinstance(header, dict):
        raise _damaged(file, "a JSON object as header", type(header).__name__)
    return header


def _tensor(file: Path, name: str, entry: Any, data: int) -> StoredTensor:
    if not isinstance(entry, dict):
        raise _damaged(file, f"an object for {name}", type(entry).__name__)
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _damaged(file, f"a known dtype for {name}", repr(dtype))
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise _damaged(file, f"shape and data_offsets of {name}", f"{shape!r}, {offsets!r}")
    nbytes = offsets[1] - offsets[0]
    if nbytes * 8 != math.prod(shape) * BITS[dtype]:
        raise _damaged(
            file, f"{math.prod(shape) * BITS[dtype] // 8} bytes for {name}", f"{nbytes} bytes"
        )
    return StoredTensor(name, dtype, tuple(shape), file, data + offsets[0], nbytes)


def _sizes(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)
