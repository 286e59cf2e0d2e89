"""Environment variables are read in one place and refused where they make no sense."""

import re
from pathlib import Path

import pytest

import mimo_native
from mimo_native import env
from mimo_native.errors import UnsupportedError

PACKAGE = Path(mimo_native.__file__).parent
SOURCES = Path(__file__).resolve().parents[2] / "csrc"
LEVELS = ("scalar", "avx2")


@pytest.mark.parametrize(("value", "expected"), [(None, None), ("", None), ("avx2", "avx2")])
def test_isa(monkeypatch, value, expected):
    if value is None:
        monkeypatch.delenv("MIMO_NATIVE_ISA", raising=False)
    else:
        monkeypatch.setenv("MIMO_NATIVE_ISA", value)
    assert env.isa(LEVELS) == expected


@pytest.mark.parametrize("value", ["avx3", "AVX2", " avx2"])
def test_isa_of_no_such_level(monkeypatch, value):
    monkeypatch.setenv("MIMO_NATIVE_ISA", value)
    with pytest.raises(UnsupportedError, match=r"MIMO_NATIVE_ISA=.* scalar, avx2.*unset it"):
        env.isa(LEVELS)


def test_no_other_module_reads_the_environment():
    readers = [
        p for p in PACKAGE.rglob("*.py") if re.search(r"os\.(environ|getenv)", p.read_text())
    ]
    assert {p.relative_to(PACKAGE).as_posix() for p in readers} <= {"env.py", "cli/doctor.py"}


def test_the_extension_reads_only_listed_variables():
    read = [
        name
        for path in SOURCES.rglob("*")
        if path.suffix in {".h", ".cpp", ".cu"}
        for name in re.findall(r'getenv\("(\w+)"\)', path.read_text())
    ]
    assert read
    assert set(read) <= set(env.VARIABLES)


@pytest.mark.parametrize(("value", "expected"), [("", 1), ("1", 1), ("4", 4)])
def test_world_size(monkeypatch, value, expected):
    monkeypatch.setenv("WORLD_SIZE", value)
    assert env.world_size() == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_world_size_of_no_sense(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(UnsupportedError, match="WORLD_SIZE="):
        env.world_size()
