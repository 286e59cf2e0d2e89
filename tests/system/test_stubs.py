"""The committed stubs describe the modules as they are."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["_C", "_cuda", "_ptxsim"])
def test_stub_is_current(module: str) -> None:
    pytest.importorskip("pybind11_stubgen")
    if importlib.util.find_spec(f"mimo_native.{module}") is None:
        pytest.skip(f"this build has no {module}")
    spec = importlib.util.spec_from_file_location("stubs", ROOT / "cmake" / "stubs.py")
    assert spec is not None
    assert spec.loader is not None
    stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stubs)
    committed = (ROOT / "python" / "mimo_native" / f"{module}.pyi").read_text()
    assert stubs.generate(module) == committed, (
        f"the bindings of {module} changed: run `python cmake/stubs.py`"
    )
