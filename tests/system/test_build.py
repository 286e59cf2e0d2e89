"""Properties of the object files, where a build folder of this checkout is at hand."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ISA_OBJECTS = sorted(
    path
    for level in ("mn_scalar", "mn_avx2", "mn_avx512", "mn_avx512bf16", "ptxsim_*")
    for path in ROOT.glob(f"build/*/CMakeFiles/{level}.dir/**/*.o")
)
# Emitted for every object with cleanups; the same bytes at every level.
HARMLESS = {"DW.ref.__gxx_personality_v0"}


@pytest.mark.skipif(not ISA_OBJECTS, reason="no build folder")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_kernel_objects_have_no_weak_symbols() -> None:
    """The linker keeps one copy of a weak symbol: an AVX-512 one would run on every CPU."""
    weak = []
    for path in ISA_OBJECTS:
        listing = subprocess.run(
            ["nm", "-C", str(path)], check=True, capture_output=True, text=True
        ).stdout
        for line in listing.splitlines():
            kind, name = line[17:18], line[19:]
            if kind in "WVu" and name not in HARMLESS:
                weak.append(f"{path.relative_to(ROOT)}: {name}")
    assert not weak, "\n".join(weak)
