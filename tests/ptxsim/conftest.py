"""Fixtures of the interpreter's tests."""

import importlib.util
from pathlib import Path

import pytest

from mimo_native.testing import ptxsim

KERNELS = Path(__file__).parent / "kernels"


if importlib.util.find_spec("mimo_native._ptxsim") is None:
    collect_ignore_glob = ["test_*.py"]


def compiled(name: str, arch: str = "sm_80") -> ptxsim.Module:
    if ptxsim.find_nvcc() is None:
        pytest.skip("no nvcc found")
    return ptxsim.compile(KERNELS / name, arch)


@pytest.fixture(scope="session")
def checks() -> ptxsim.Module:
    """kernels/checks.cu: small kernels, right and with a mistake."""
    return compiled("checks.cu")
