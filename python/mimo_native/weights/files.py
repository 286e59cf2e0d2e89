"""Files of a checkpoint: JSON that says where it is broken, and replacing several at once."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

__all__ = ["read_json", "replace_files"]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ``CheckpointError`` with line and column of a fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            str(path), "file", expected="a readable file", got=error.strerror or str(error)
        ) from None
    except UnicodeDecodeError as error:
        raise CheckpointError(
            str(path), "file", expected="UTF-8 text", got=f"byte {error.start} is not"
        ) from None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(path, text, error) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(str(path), "file", expected="JSON", got=str(error)) from None
    if not isinstance(content, dict):
        got = f"{type(content).__name__} at the top"
        raise CheckpointError(str(path), "file", expected="a JSON object", got=got)
    return content


def _damaged(path: Path, text: str, error: json.JSONDecodeError) -> CheckpointError:
    # Python < 3.13 reports a trailing comma at the bracket after it, 3.13 at the comma.
    before = text[: error.pos + 1].rstrip("]} \t\r\n")
    at, what = error.pos, error.msg
    if before.endswith(",") and text[len(before) :].lstrip()[:1] in ("]", "}"):
        at, what = len(before) - 1, "a comma before the closing bracket"
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    shown = text.split("\n")[line - 1].strip()
    return CheckpointError(
        str(path),
        f"line {line}, column {column}",
        expected="JSON",
        got=f"{what} in {shown[:60]!r}",
        remedy="Correct the file or fetch it again.",
    )


def replace_files(
    directory: Path, staged: Mapping[str, Path], *, stale: Sequence[str], key: str
) -> None:
    """Moves finished files into ``directory`` under their names, all or none.

    ``staged`` maps final names to files on the same disk; ``stale`` names files that go. All old
    files leave before a new one comes, first ``key``, without which nothing can be read: a crash in
    between leaves no readable mixture. An error puts everything back and is raised. What an earlier
    crash left behind goes once all is in place.
    """
    token = secrets.token_hex(4)
    leaving = [
        name for name in dict.fromkeys([key, *stale, *staged]) if (directory / name).exists()
    ]
    moved: list[tuple[Path, Path]] = []
    try:
        for name in leaving:
            moved.append((directory / name, directory / f".previous-{token}-{name}"))
            os.replace(*moved[-1])
        for name, file in staged.items():
            moved.append((file, directory / name))
            os.replace(*moved[-1])
    except BaseException:
        for source, target in reversed(moved):
            if target.exists() and not source.exists():
                os.replace(target, source)
        raise
    for old in directory.glob(".previous-*"):
        old.unlink()
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new names survive a power cut
    finally:
        os.close(folder)
