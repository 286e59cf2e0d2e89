"""Entry point: parses, runs one command, turns what goes wrong into one line and an exit status.

A command is a module with ``SUMMARY``, ``EXAMPLES``, ``add_arguments(parser)`` and ``run(args)``.
Nothing here or at the top of a command imports torch, so that --help answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..env import world_size
from ..errors import CheckpointError, ShapeError, UnsupportedError
from . import (
    bench,
    chat,
    convert,
    doctor,
    fit,
    generate,
    get,
    mopd,
    plot,
    pretrain,
    race,
    selftest,
    speedrun,
)

__all__ = ["entry", "main"]

COMMANDS = {
    "generate": generate,
    "chat": chat,
    "race": race,
    "get": get,
    "fit": fit,
    "convert": convert,
    "doctor": doctor,
    "selftest": selftest,
    "bench": bench,
    "pretrain": pretrain,
    "mopd": mopd,
    "speedrun": speedrun,
    "plot": plot,
}

# What a wrong request or an unwilling machine raises; anything else is a defect and shows whole.
_EXPECTED = (ShapeError, UnsupportedError, CheckpointError, OSError, MemoryError)
_USAGE, _INTERRUPTED = 2, 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mimo-native",
        description="Run and examine models of the MiMo-V2-Flash kind with native kernels.",
        epilog="`mimo-native COMMAND --help` shows the options and examples of a command.",
    )
    parser.add_argument("--version", action="version", version=f"mimo-native {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY[0].upper() + command.SUMMARY[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in command.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON object to stdout")
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``argv`` (the process's own without); returns the exit status.

    0 done, 1 a check has failed, 2 the request cannot be served, 130 interrupted.
    """
    args = build_parser().parse_args(argv)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has enough; keep the interpreter's own flush at exit from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _EXPECTED as error:
        print(f"mimo-native {args.command}: {_one_line(error)}", file=sys.stderr)
        return _USAGE


def entry() -> NoReturn:
    """The command as a process: runs ``main`` and ends with its status."""
    status = main()
    if world_size() > 1:
        # DTensor's caches keep gloo's groups, so their threads outlive destroy_process_group; one
        # that frees a Python object while the interpreter shuts down ends the process with SIGABRT.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    entry()
