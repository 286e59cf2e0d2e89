"""Reads the weights of a llama-type GGUF file under hub names, one tensor at a time.

llama.cpp rotates adjacent pairs of a head's dimensions, the hub and this package pair the two
halves. Its converter therefore moves row ``half * D/2 + i`` of each query and key head to row
``2 * i + half``; reading moves it back, before dequantisation: a row's blocks travel together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import torch

from ..errors import CheckpointError, UnsupportedError
from ..ops._coded import Codes
from .gguf_file import GGUFFile, GGUFTensor
from .gguf_llama import check_shapes, hub_name, llama_config
from .gguf_quants import ENCODINGS, codes_of_blocks, dequantize

__all__ = ["GGUFCheckpoint"]

# Values decoded at once: the float32 scratch beside the result stays at a few MB.
_CHUNK_VALUES = 1 << 20
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class GGUFCheckpoint:
    """A GGUF file whose metadata, names, shapes and encodings are checked; weights stay on disk.

    ``config`` holds config.json fields for ``MiMoConfig.from_dict``; ``tensors`` maps hub names to
    rows of the file's tensor table.
    """

    file: GGUFFile
    config: Mapping[str, object]
    tensors: Mapping[str, GGUFTensor]

    @classmethod
    def open(cls, path: str | Path) -> "GGUFCheckpoint":
        """Check ``path`` completely, reading only its header.

        Raises CheckpointError (missing, damaged, contradictory) or UnsupportedError (another
        architecture, an encoding other than F32, F16, BF16, Q8_0, Q4_0, Q4_1, or mathematics that
        the model does not have).
        """
        file = GGUFFile.read(path)
        config = llama_config(file)
        _refuse_encodings(file)
        check_shapes(file, config)
        tensors = {hub_name(name) or name: tensor for name, tensor in file.tensors.items()}
        return cls(file, MappingProxyType(config), MappingProxyType(tensors))

    def load(self, name: str, *, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """The tensor ``name`` (hub name), dequantised to float32 and rounded once to ``dtype``.

        ``dtype`` is torch.float32 or torch.bfloat16. Raises CheckpointError for an unknown name or
        when the file has changed since it was opened.
        """
        if name not in self.tensors:
            raise CheckpointError(
                str(self.file.path), "name", expected="a tensor of this checkpoint", got=repr(name)
            )
        with _open(self.file.path) as stream:
            return self._read(stream, name, dtype)

    def items(
        self, *, dtype: torch.dtype = torch.bfloat16, codes: bool = False
    ) -> Iterator[tuple[str, torch.Tensor | Codes]]:
        """All tensors as (hub name, tensor) in file order; only one is in memory at a time.

        codes: Q8_0, Q4_0 and Q4_1 as int8_32 and int4_32 codes instead of values, exactly.
        """
        with _open(self.file.path) as stream:
            for name, tensor in self.tensors.items():
                kept = self._read_codes(stream, name) if codes and tensor.encoding.coded else None
                yield name, self._read(stream, name, dtype) if kept is None else kept

    def _read_codes(self, stream: BinaryIO, name: str) -> Codes | None:
        """None where a min of Q4_0 is too large for float16, which only a broken scale causes."""
        tensor, head_dim = self.tensors[name], self._permuted_head(name)
        stream.seek(tensor.offset)
        raw_RB = _read_rows(self.file.path, stream, name, tensor.rows, tensor.row_bytes)
        if head_dim:
            raw_RB = _undo_rotary_order(raw_RB, head_dim)
        return codes_of_blocks(raw_RB, tensor.encoding)

    def _read(self, stream: BinaryIO, name: str, dtype: torch.dtype) -> torch.Tensor:
        if dtype not in _DTYPES:
            raise UnsupportedError(
                "GGUFCheckpoint", [f"dtype {dtype}; torch.float32 and torch.bfloat16 are read"]
            )
        tensor, head_dim = self.tensors[name], self._permuted_head(name)
        unit = head_dim or 1
        out_RC = torch.empty(tensor.rows, tensor.shape[-1], dtype=dtype)
        step = max(1, _CHUNK_VALUES // (tensor.shape[-1] * unit)) * unit
        stream.seek(tensor.offset)
        for start in range(0, tensor.rows, step):
            stop = min(start + step, tensor.rows)
            raw_RB = _read_rows(self.file.path, stream, name, stop - start, tensor.row_bytes)
            if head_dim:
                raw_RB = _undo_rotary_order(raw_RB, head_dim)
            out_RC[start:stop] = dequantize(raw_RB, tensor.encoding)
        return out_RC.view(tensor.shape)

    def _permuted_head(self, name: str) -> int:
        """Rows per head if the converter reordered them, else 0."""
        head_dim = self.config["head_dim"]
        assert isinstance(head_dim, int)
        return head_dim if name.endswith(("q_proj.weight", "k_proj.weight")) else 0


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CheckpointError(
            str(path), "file", expected="the file that was opened before", got=str(error)
        ) from error


def _read_rows(path: Path, stream: BinaryIO, name: str, rows: int, row_bytes: int) -> torch.Tensor:
    buffer = bytearray(rows * row_bytes)
    got = stream.readinto(buffer)  # type: ignore[attr-defined]
    if got != len(buffer):
        raise CheckpointError(
            str(path), name, expected=f"{len(buffer)} bytes", got=f"{got}: the file has shrunk",
            remedy="Do not change a checkpoint while it is read.",
        )  # fmt: skip
    return torch.frombuffer(buffer, dtype=torch.uint8).view(rows, row_bytes)


def _undo_rotary_order(raw_RB: torch.Tensor, head_dim: int) -> torch.Tensor:
    row_bytes = raw_RB.shape[1]
    return raw_RB.view(-1, head_dim // 2, 2, row_bytes).transpose(1, 2).reshape(-1, row_bytes)


def _refuse_encodings(file: GGUFFile) -> None:
    unread = {t.encoding.name: n for n, t in file.tensors.items() if not t.encoding.readable}
    if unread:
        readable = ", ".join(e.name for e in ENCODINGS.values() if e.readable)
        raise UnsupportedError(
            str(file.path),
            [f"tensor {name} is stored as {kind}" for kind, name in unread.items()],
            remedy=f"Quantise the model to one of {readable}.",
        )
