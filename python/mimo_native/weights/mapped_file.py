"""A file in memory as far as it is looked at, and no longer."""

import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .safetensors_header import StoredTensor

__all__ = ["MappedFile"]

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


class MappedFile:
    """One safetensors file, mapped privately; it stays mapped as long as one of its views lives."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with file.open("rb") as stream:
            self._size = os.fstat(stream.fileno()).st_size
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)

    def view(self, stored: StoredTensor) -> Tensor:
        """The tensor at its place in the file, or a copy where that is not aligned for its dtype.

        Raises ``CheckpointError`` where the file shrank since its header was read, or holds a dtype
        that torch lacks.
        """
        if stored.start + stored.nbytes > self._size or stored.dtype not in _DTYPES:
            raise CheckpointError(
                str(self.file),
                stored.name,
                expected=f"{stored.nbytes} bytes of a dtype that torch has",
                got=f"{stored.dtype} in a file of {self._size} bytes",
            )
        dtype = _DTYPES[stored.dtype]
        if stored.nbytes == 0:
            return torch.empty(stored.shape, dtype=dtype)
        if stored.start % dtype.itemsize:
            raw = torch.frombuffer(
                self._map, dtype=torch.uint8, count=stored.nbytes, offset=stored.start
            )
            return raw.clone().view(dtype).view(stored.shape)
        count = stored.nbytes // dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=stored.start)
        return flat.view(stored.shape)

    def drop_pages(self, stored: StoredTensor) -> None:
        """Gives the tensor's pages back to the system; a view reads the file again when touched."""
        start = stored.start // mmap.PAGESIZE * mmap.PAGESIZE
        end = stored.start + stored.nbytes
        if hasattr(mmap, "MADV_DONTNEED") and end > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
