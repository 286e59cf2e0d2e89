"""Running a program that a model wrote: no network, no files but Python's own, limits on the rest.

Linux namespaces do it, entered without privileges by ``sandbox_entry.py``. Where they cannot be
had, nothing is run: ``reasons()`` says why.
"""

import functools
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ShapeError, UnsupportedError

__all__ = ["Limits", "passes", "reasons"]

_ENTRY = Path(__file__).with_name("sandbox_entry.py")
_MOST = 4096  # characters of a complaint
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """seconds of the clock and of the processor; bytes of memory, and of files, which are kept in
    memory; processes and threads at once."""

    seconds: float = 5.0
    memory: int = 512 << 20
    files: int = 16 << 20
    processes: int = 16

    def __post_init__(self) -> None:
        if min(self.seconds, self.memory, self.files, self.processes) <= 0:
            got = str(asdict(self))
            raise ShapeError("sandbox", "limits", expected="numbers above 0", got=got)


_DEFAULT = Limits()


def passes(program: str, tests: str, limits: Limits = _DEFAULT) -> bool:
    """Whether Python runs ``program`` and then ``tests``, in the same names, to their very end.

    An exception, an early exit, a time-out or a broken limit is False. Nothing of a run is left
    behind. Raises UnsupportedError where there is no sandbox.
    """
    if why := reasons():
        raise UnsupportedError(
            "sandbox",
            why,
            remedy="Code that a model wrote runs nowhere else; give run() a callable of your own.",
        )
    return _run(program, tests, limits)


@functools.cache
def reasons() -> tuple[str, ...]:
    """Why there is no sandbox on this machine; empty where there is one, which was tried."""
    if not sys.platform.startswith("linux"):
        return (f"namespaces are Linux's, this is {sys.platform}",)
    try:
        works = _run("", "", Limits(seconds=20.0))
    except UnsupportedError as error:
        return tuple(error.reasons)
    return () if works else ("an empty program does not run to its end in it",)


def _run(program: str, tests: str, limits: Limits) -> bool:
    word = secrets.token_hex(16)  # the program's last act is to hand it back
    with tempfile.TemporaryDirectory(prefix="mimo-native-sandbox-") as root:
        order = {
            "root": root,
            "visible": _visible(),
            "python": os.path.realpath(sys.executable),
            "program": program,
            "tests": tests,
            "word": word,
            "limits": asdict(limits),
        }
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_ENTRY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )
        try:
            said = _talk(child, json.dumps(order).encode(), limits.seconds)
        finally:
            child.kill()  # whatever is left in the namespaces goes with it
            child.wait()
    if said.startswith("!"):
        raise UnsupportedError("sandbox", [said[1:].strip()])
    return said == word


def _talk(child: subprocess.Popen[bytes], order: bytes, seconds: float) -> str:
    """Hand over the order; what comes back in time, and no more of it than is of use."""
    assert child.stdin is not None
    assert child.stdout is not None
    end, said = time.monotonic() + seconds, b""
    with child.stdin, child.stdout:
        try:
            child.stdin.write(order)
            child.stdin.close()
        except BrokenPipeError:
            return ""
        while len(said) < _MOST and (left := end - time.monotonic()) > 0:
            if not select.select([child.stdout], [], [], left)[0]:
                break
            piece = os.read(child.stdout.fileno(), _MOST)
            if not piece:
                return said.decode(errors="replace")
            said += piece
    return ""


def _visible() -> Sequence[str]:
    """What the program may read: Python, its library, and the system's."""
    own = [os.path.realpath(sys.base_prefix), os.path.realpath(sys.executable)]
    chosen: list[str] = []
    for path in (*_SYSTEM, *own):
        inside = any(Path(path).is_relative_to(other) for other in chosen)
        if os.path.lexists(path) and not inside:
            chosen.append(path)
    return chosen
