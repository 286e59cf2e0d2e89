"""What a run writes down: one JSON object per step, TensorBoard and a progress bar if installed."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import CheckpointError

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends to RUN/metrics.jsonl; every line has "kind" and "step".

    On opening, lines after ``step`` are dropped: a run resumed there writes them again, and a line
    that a crash cut short goes with them. ``total`` tokens scale the progress bar; 0 shows none.
    """

    def __init__(
        self, directory: Path, *, step: int = 0, total: int = 0, tensorboard: bool = True
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "metrics.jsonl"
        _truncate(self.path, step)
        self._stream = self.path.open("a", encoding="utf-8")
        self._board = _board(directory) if tensorboard else None
        self._bar, self._task = _bar(total) if total else (None, None)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Log plain numbers, lists and dicts of them; tensors have no place here."""
        line = {"kind": kind, "step": step} | values
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def progress(self, tokens: int, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=tokens, description=text)

    def __enter__(self) -> "MetricsLog":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()
        self._stream.close()


def read_metrics(directory: str | Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl, of one kind or all. Raises CheckpointError without them."""
    path = Path(directory) / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CheckpointError(
            str(path), "file", expected="the log of a run", got=error.strerror or str(error)
        ) from None
    records = [json.loads(line) for line in lines if line]
    return [record for record in records if kind in (None, record["kind"])]


def _truncate(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            break
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def _board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"))


def _bar(total: int) -> tuple[Any, Any]:
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None, None
    if not sys.stderr.isatty():
        return None, None
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    return bar, bar.add_task("", total=total)
