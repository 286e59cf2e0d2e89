"""Programs in the sandbox: what passes, what they cannot reach, and what is left: nothing."""

import socket
import time
from pathlib import Path

import pytest

import mimo_native as mn
from mimo_native import mopd
from mimo_native.mopd import rewards, sandbox
from mimo_native.mopd.sandbox import Limits, passes

from .models import config

there = pytest.mark.skipif(bool(sandbox.reasons()), reason="; ".join(sandbox.reasons()))

# Program, tests, whether both come to their end.
PLAIN = {
    "right": ("def f(x):\n    return x + 1", "assert f(1) == 2", True),
    "wrong": ("def f(x):\n    return x", "assert f(1) == 2", False),
    "no Python": ("def f(x", "", False),
    "raises": ("1 / 0", "", False),
    "exits": ("import sys; sys.exit(0)", "assert False", False),
    "exits at once": ("import os; os._exit(0)", "assert False", False),
    "prints": ("for _ in range(9000): print('x' * 100)", "", True),
    "reads its input": ("import sys; sys.stdin.read()", "", False),
    "answers too much": ("import os\nfor _ in range(9): os.write(3, b'x' * 4096)", "", False),
    "ends the first process": (
        "import os\ntry:\n    os.kill(1, 9)\nexcept PermissionError:\n    pass",
        "",
        True,
    ),
}
# What a program tries, and the error that it must get.
REFUSED = {
    "memory": ("bytearray(1 << 30)", "MemoryError"),
    "writes beside": ("open('/usr/x', 'w')", "OSError"),
    "writes too much": ("open('x', 'wb').write(bytes(20 << 20))", "OSError"),
    "devices": ("open('/dev/null')", "FileNotFoundError"),
    "processes of others": ("os.listdir('/proc')", "FileNotFoundError"),
    "processes": ("[os.fork() or time.sleep(9) for _ in range(40)]", "OSError"),
    "becomes root": ("os.setuid(0)", "OSError"),
    "mounts": ("call('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)", "PermissionError"),
    "remounts": ("call('mount', None, b'/usr', None, 4096 | 32, None)", "PermissionError"),
    # As root of users and mounts of its own, the mounts that it got are still locked.
    "remounts as root": (
        "call('unshare', 0x10020000); call('mount', None, b'/usr', None, 4096 | 32, None)",
        "PermissionError",
    ),
    "remote": ("socket.create_connection(('192.0.2.1', 80), 1)", "OSError"),
}
_TRIES = """
import ctypes, os, socket, time
def call(name, *args):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args):
        raise OSError(ctypes.get_errno(), name)
"""


@there
@pytest.mark.parametrize("name", PLAIN)
def test_what_passes(name: str) -> None:
    program, tests, want = PLAIN[name]
    assert passes(program, tests) is want


@there
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    attempt, error = REFUSED[name]
    program = f"{_TRIES}\ngot = None\ntry:\n    {attempt}\nexcept {error}:\n    got = True"
    assert passes(program, "assert got")


@there
def test_it_is_alone(tmp_path: Path) -> None:
    """A server of this machine and a file of this user are there, but not for the program."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        tests = f"""
import os, socket
try:
    socket.create_connection(("127.0.0.1", {port}), 1)
except OSError:
    pass
else:
    raise AssertionError
assert not os.path.exists({str(secret)!r})
assert not os.path.exists({str(Path.home() / ".ssh")!r})
assert [name for _, name in socket.if_nameindex()] == ["lo"]
assert os.getpid() == 2
assert os.environ.keys() <= {{"PATH", "LC_CTYPE"}}
open("mine", "w").write("x")
"""
        assert passes("", tests)
    assert not passes("", "import os; assert os.path.exists('mine')"), "each run is new"


@there
def test_nothing_outlives_it() -> None:
    endless = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(99)\n"
    assert passes(endless, "")
    began = time.monotonic()
    assert not passes(endless + "while True: pass", "", Limits(seconds=0.5))
    assert time.monotonic() - began < 20
    end = time.monotonic() + 10
    while inside():
        assert time.monotonic() < end
        time.sleep(0.02)


def inside() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [p for p in [path.read_text()] if p.rstrip("\0").endswith("last.py")]
        except OSError:
            continue
    return found


@there
def test_as_a_reward() -> None:
    reward = rewards.resolve_reward("unit_tests", {})
    assert reward("x = 2", "assert x == 2", "") == 1.0
    assert reward("x = 3", "assert x == 2", "") == 0.0
    assert rewards.needs_answers(reward)
    for completion, tests in (("x = 2", None), ((5, 6), [5, 6])):
        with pytest.raises(mn.ShapeError, match="text"):
            rewards.outcome("d", reward, completion, tests, "")


def test_without_a_sandbox_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "reasons", lambda: ("no namespaces",))
    domains = {"a": mopd.Domain(prompts=str(tmp_path / "a.jsonl"), reward="unit_tests")}
    loss = mopd.LossConfig(alpha=1.0)
    run = config(tmp_path, domains=domains, teachers={}, loss=loss, rollouts_per_prompt=2)
    with pytest.raises(mn.UnsupportedError, match="no namespaces"):
        mopd.run(run)
    with pytest.raises(mn.UnsupportedError, match="no namespaces"):
        passes("", "")


def test_an_order_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong inside before the program starts is a reason, not a failed test."""
    monkeypatch.setattr(sandbox, "reasons", tuple)
    monkeypatch.setattr(sandbox, "_visible", lambda: ("/does/not/exist",))
    with pytest.raises(mn.UnsupportedError, match=r"mount|unshare"):
        passes("", "")


def test_bad_limits() -> None:
    with pytest.raises(mn.ShapeError, match="numbers above 0"):
        Limits(seconds=0)
