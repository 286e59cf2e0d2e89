"""Runs ``mimo-native`` for tests: in this process, which is quick, or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch

import mimo_native
from mimo_native.cli.main import main

__all__ = ["COMMAND", "ENVIRONMENT", "assert_one_clear_line", "mimo"]

COMMAND = [sys.executable, "-m", "mimo_native.cli.main"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(mimo_native.__file__).parent.parent)}


def mimo(
    *arguments: str, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The finished command; with ``variables`` in its environment a process of its own."""
    if variables:
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            input=stdin,
            env={**ENVIRONMENT, **variables},
            timeout=120,
            check=False,
        )
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", io.StringIO(stdin or "")),
    ):
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse's own
            status = end.code
    torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def assert_one_clear_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Refused with one line on stderr that has these words."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
