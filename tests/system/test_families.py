"""Who knows one kernel family can guess every path of the next."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folders of csrc that are no kernel family.
OTHERS = {"model", "ptxsim", "runtime", "simd"}
FAMILIES = sorted(p.name for p in (ROOT / "csrc").iterdir() if p.is_dir() and p.name not in OTHERS)
PLACES = (
    "csrc/{}/bind.cpp",
    "python/mimo_native/ops/{}.py",
    "python/mimo_native/reference/{}.py",
    "tests/{}/cases.py",
    "benchmarks/bench_{}.py",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_five_places(family: str) -> None:
    missing = [p.format(family) for p in PLACES if not (ROOT / p.format(family)).is_file()]
    assert not missing


def test_families_are_found() -> None:
    assert {"attention", "experts", "gemm", "norm_rope", "routing", "sampling"} <= set(FAMILIES)
