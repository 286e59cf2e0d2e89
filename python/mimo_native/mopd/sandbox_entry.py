"""The inside of the sandbox: a program of its own, which imports nothing of the package.

Reads an order from its input, enters namespaces of its own (users, network, mounts, processes, IPC,
names), leaves the file system for an empty one with Python alone, read only, and runs the program
there as an ordinary user. Answers with the order's word, with nothing, or with "!" and a reason.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW = 0x10000000 | 0x40000000 | 0x00020000 | 0x20000000 | 0x08000000 | 0x04000000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 2, 4, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _READ_ONLY, _CWD, _RECURSIVE = 442, 1 | 2 | 4, -100, 0x8000
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
_USER = 1000  # inside; not 0: a program that such a user starts has no capabilities
_NOBODY = 65534

# What Python runs in there. The word is read when everything else is done.
_LAST = """import os
space = {"__name__": "program"}
for name in ("program.py", "tests.py"):
    with open(name, encoding="utf-8") as file:
        exec(compile(file.read(), name, "exec"), space)
os.write(3, os.read(0, 64))
"""


def main() -> None:
    order = json.load(sys.stdin)
    null = os.open("/dev/null", os.O_WRONLY)  # in there, it does not exist
    (entered, ready), (mapped, go) = os.pipe(), os.pipe()
    inside = os.fork()
    if inside == 0:
        os.close(go)
        try:
            _inside(order, null, ready, mapped)
        except BaseException as error:
            _answer(f"!{type(error).__name__}: {error}")
        os._exit(0)
    os.close(ready)
    try:
        if os.read(entered, 1):
            _map(inside)
            os.write(go, b"x")
    except OSError as error:
        _answer(f"!{error.filename}: {error}")
    os.close(go)
    os.waitpid(inside, 0)


def _map(inside: int) -> None:
    """Who the users of the new namespace are outside of it; only a process outside may say that of
    a second one. Limits on processes do not hold for root: root's programs are nobody's.
    """
    _write(f"/proc/{inside}/setgroups", "deny")
    for name, outside in (("uid", os.getuid()), ("gid", os.getgid())):
        lines = [f"{_USER} {outside or _NOBODY} 1"] + ([] if outside else ["0 0 1"])
        _write(f"/proc/{inside}/{name}_map", "\n".join(lines))


def _inside(order: dict[str, Any], null: int, ready: int, mapped: int) -> None:
    _call("prctl", _DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    _call("unshare", _NEW)
    os.write(ready, b"x")
    if not os.read(mapped, 1):
        return
    _enter(order)
    child = os.fork()  # the first process of its namespace: with it, all others in there end
    if child == 0:
        _first(order, null)
        os._exit(0)
    os.waitpid(child, 0)


def _enter(order: dict[str, Any]) -> None:
    """A new root with what the order says is visible."""
    pivot = _PIVOT_ROOT.get(platform.machine())
    if pivot is None:
        raise OSError(f"pivot_root: not known for {platform.machine()}")
    _mount(None, "/", None, _REC | _PRIVATE, None)
    root = order["root"]
    size = order["limits"]["files"]
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, f"size={size},mode=755")
    for path in order["visible"]:
        _show(path, root + path)
    for name in ("work", "tmp"):
        os.mkdir(f"{root}/{name}")
        os.chmod(f"{root}/{name}", 0o777)
    os.chdir(root)
    _syscall(pivot, b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/work")


def _show(path: str, target: str) -> None:
    """The same file or directory in the new root, read only."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        with open(target, "x"):
            pass
    _mount(path, target, None, _BIND | _REC, None)
    # struct mount_attr: set, clear, propagation, user namespace
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    _syscall(
        _MOUNT_SETATTR, _CWD, target.encode(), _RECURSIVE, attributes, ctypes.sizeof(attributes)
    )


def _first(order: dict[str, Any], null: int) -> None:
    """Wait for the program, and end with it or with the process outside."""
    _call("prctl", _DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    for name, text in (("program.py", order["program"]), ("tests.py", order["tests"])):
        _write(name, text)
    _write("last.py", _LAST)
    word, out = os.pipe()
    os.write(out, order["word"].encode())
    os.close(out)
    child = os.fork()
    if child == 0:
        try:
            _become(order, word, null)
        finally:
            os._exit(1)
    while True:  # and take up whatever the program left behind, until it ends itself
        ended, _ = os.wait()
        if ended == child:
            return


def _become(order: dict[str, Any], word: int, null: int) -> None:
    limits = order["limits"]
    seconds = int(limits["seconds"]) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    out = os.dup(1)
    os.dup2(word, 0)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.dup2(out, 3)
    os.closerange(4, 64)
    os.setresgid(_USER, _USER, _USER)
    os.setresuid(_USER, _USER, _USER)
    python = order["python"]
    os.execve(python, [python, "-I", "-S", "-B", "last.py"], {"PATH": "/usr/bin:/bin"})


def _call(name: str, *args: Any) -> None:
    if getattr(_LIBC, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _syscall(*args: Any) -> None:
    if _LIBC.syscall(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"system call {args[0]}: {os.strerror(number)}")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None
) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    data = options.encode() if options is not None else None
    _call("mount", *texts, ctypes.c_ulong(flags), data)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _answer(text: str) -> None:
    os.write(1, text.encode()[:4000])


if __name__ == "__main__":
    main()
