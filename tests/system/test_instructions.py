"""The scan of machine code that `doctor` shows, against a disassembler."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mimo_native import _C
from mimo_native.cli.instructions import LEVEL_INSTRUCTIONS, count_instructions

EXTENSION = Path(_C.__file__)
MNEMONICS = {
    "vfmaddps ymm": r"\tvfmadd(?:132|213|231)ps .*%ymm",
    "vfmaddps zmm": r"\tvfmadd(?:132|213|231)ps .*%zmm",
    "vdpbf16ps zmm": r"\tvdpbf16ps .*%zmm",
}


def test_counts_agree_with_objdump():
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    counts = count_instructions(EXTENSION)
    if counts is None:
        pytest.skip("the extension is not x86-64 code")
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", EXTENSION],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name, pattern in MNEMONICS.items():
        # An accidental match of a byte pattern is possible, though none is known.
        assert abs(counts[name] - len(re.findall(pattern, listing))) <= 2, name
    assert counts["vfmaddps zmm"] > 10


def test_every_level_says_what_it_needs():
    assert set(_C.isa_levels()) <= set(LEVEL_INSTRUCTIONS)


def test_other_files_are_not_examined(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"not an object file" * 10)
    assert count_instructions(text) is None
