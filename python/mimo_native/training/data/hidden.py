"""A frozen trunk's hidden states beside the tokens they belong to, so that it runs once.

In the directory of a token file: ``hidden.bin``, bfloat16 [tokens, D], the states before the final
norm, and ``hidden.json``, which says whose they are. Every document is read from its beginning, so
a row that starts amid one has states that know more than the row shows, as in inference.
"""

import json
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError
from ...weights.files import read_json
from .token_file import TokenFile

__all__ = ["HiddenFile", "store_hidden"]

_STATES, _META = "hidden.bin", "hidden.json"


class HiddenFile:
    """states bfloat16 [tokens, D], memory-mapped.

    Raises CheckpointError unless they are there, whole, and of the trunk with the digest ``trunk``.
    """

    def __init__(self, file: TokenFile, *, trunk: str) -> None:
        meta = read_json(file.path / _META)
        whose = {"trunk": trunk, "tokens": len(file)}
        if any(meta.get(key) != value for key, value in whose.items()):
            raise _foreign(file, str(whose), str({key: meta.get(key) for key in whose}))
        width, path = int(meta["width"]), file.path / _STATES
        size = path.stat().st_size if path.is_file() else 0
        if size != 2 * width * len(file):
            raise _foreign(file, f"{2 * width * len(file)} bytes", f"{size} bytes")
        raw = np.memmap(path, dtype=np.int16, mode="c", shape=(len(file), width))
        self.states = torch.from_numpy(raw).view(torch.bfloat16)


def store_hidden(
    file: TokenFile,
    hidden: Callable[[Tensor, Tensor], Tensor],
    *,
    trunk: str,
    width: int,
    tokens: int = 2048,
) -> HiddenFile:
    """Ask ``hidden`` for all states of ``file`` and store them, unless this trunk's are there.

    hidden: (ids int64 [1, N], cu_seqlens int32 [S + 1]) -> [1, N, D], for whole documents of about
    ``tokens`` together. Raises CheckpointError where the disk cannot be written.
    """
    try:
        return HiddenFile(file, trunk=trunk)
    except CheckpointError:
        pass  # missing, another trunk's, or of other tokens
    part = file.path / f".{_STATES}.part"
    try:
        with part.open("wb") as stream:
            first = 0
            while first < file.documents:
                last = int(np.searchsorted(file.offsets, file.offsets[first] + tokens)) - 1
                last = min(max(last, first + 1), file.documents)
                bounds = torch.from_numpy(file.offsets[first : last + 1] - file.offsets[first])
                ids = file.tokens[file.offsets[first] : file.offsets[last]].astype(np.int64)
                states = hidden(torch.from_numpy(ids)[None], bounds.to(torch.int32))[0]
                stream.write(states.to(torch.bfloat16).view(torch.int16).numpy().tobytes())
                first = last
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file.path / _STATES)
        meta = {"trunk": trunk, "tokens": len(file), "width": width}
        part.write_text(json.dumps(meta) + "\n")
        os.replace(part, file.path / _META)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(
            str(file.path),
            _STATES,
            expected=f"room for {2 * width * len(file) / 1e6:.0f} MB",
            got=str(error),
            remedy="Free disk space and start again; the tokens are as they were.",
        ) from error
    return HiddenFile(file, trunk=trunk)


def _foreign(file: TokenFile, expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        str(file.path), _STATES, expected=expected, got=got, remedy="Store the states anew."
    )
