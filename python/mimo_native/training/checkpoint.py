"""Checkpoints of a run: complete, written beside their place and renamed, free of the rank count.

RUN/checkpoints/step-00001200/ holds what torch.distributed.checkpoint writes, and ``meta.json``.
"""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ..errors import CheckpointError
from ..weights.files import read_json

__all__ = ["Checkpoints"]

State = Mapping[str, Mapping[str, Tensor]]
_META, _PREFIX = "meta.json", "step-"


class Checkpoints:
    """The checkpoints of one run directory, of which the newest ``keep`` stay.

    ``asynchronous`` copies the state and writes it while training goes on; a failure then shows at
    the next save or at ``wait``. A crash at any moment leaves whole checkpoints only.
    """

    def __init__(self, directory: Path, *, keep: int = 2, asynchronous: bool = False) -> None:
        self.directory, self.keep = directory, keep
        self._worker = ThreadPoolExecutor(1) if asynchronous else None
        self._pending: Future[None] | None = None
        # Collectives of a background save must not mix with those of training.
        self._group = dist.new_group(backend="gloo") if asynchronous and _many() else None

    def save(self, step: int, state: State, meta: Mapping[str, Any]) -> None:
        """Write tensors ``state[part][name]`` and JSON ``meta``; all ranks call it together.

        Raises CheckpointError where the disk cannot be written; what was there stays as it was.
        """
        self.wait()
        final = self.directory / f"{_PREFIX}{step:08d}"
        if self._worker is None:
            self._write(final, state, meta)
        else:
            copy = {part: {n: t.clone() for n, t in own.items()} for part, own in state.items()}
            self._pending = self._worker.submit(self._write, final, copy, dict(meta))

    def wait(self) -> None:
        """Until a background save has ended; raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, final: Path, state: State, meta: Mapping[str, Any]) -> None:
        stage = self.directory / f".saving-{final.name}"
        try:
            if _leader():
                shutil.rmtree(stage, ignore_errors=True)
                stage.mkdir(parents=True)
                (stage / _META).write_text(json.dumps(dict(meta), indent=1) + "\n")
            self._barrier()
            with _quiet():
                dcp.save(dict(state), checkpoint_id=stage, process_group=self._group)
            if _leader():
                self._put_in_place(stage, final)
        except (OSError, RuntimeError, CheckpointException) as error:
            shutil.rmtree(stage, ignore_errors=True)
            raise CheckpointError(
                str(self.directory),
                "checkpoint",
                expected="a place that can be written",
                got=str(error).strip().splitlines()[-1],
                remedy="Free disk space and resume; earlier checkpoints are as they were.",
            ) from error
        self._barrier()

    def _put_in_place(self, stage: Path, final: Path) -> None:
        for file in [*stage.iterdir(), stage]:
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(stage, final)
        _sync(self.directory)
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _barrier(self) -> None:
        if _many():
            dist.barrier(group=self._group)

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(p for p in self.directory.glob(f"{_PREFIX}*") if (p / _META).is_file())

    def latest(self) -> Path | None:
        found = self.all()
        return found[-1] if found else None

    @staticmethod
    def meta(path: Path) -> dict[str, Any]:
        return read_json(path / _META)

    @staticmethod
    def load(path: Path, state: State) -> None:
        """Fill the tensors of ``state`` in place, sharded in whatever way they are now.

        Raises CheckpointError for a damaged file or one that lacks a tensor or has another shape.
        """
        try:
            with _quiet():
                dcp.load(dict(state), checkpoint_id=path)
        except (OSError, RuntimeError, ValueError, EOFError, CheckpointException) as error:
            raise CheckpointError(
                str(path),
                "checkpoint",
                expected="a checkpoint of this run",
                got=str(error).strip().splitlines()[-1],
                remedy="Delete it to resume from the one before.",
            ) from error


def _many() -> bool:
    return dist.is_initialized()


def _leader() -> bool:
    return not _many() or dist.get_rank() == 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that a single process saves as a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
