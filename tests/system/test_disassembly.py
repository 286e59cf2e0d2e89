"""The named instructions are in each level's objects, and in no weaker level's."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "dev" / "CMakeFiles"
LEVELS = ("scalar", "avx2", "avx512", "avx512bf16")
# A register or an instruction, and the weakest level whose objects may hold it.
NAMED = {
    "ymm registers": (r"%ymm\d", "avx2"),
    "fused multiply-add of 256 bits": (r"\tvfn?m(?:add|sub)\d{3}ps .*%ymm", "avx2"),
    "zmm registers": (r"%zmm\d", "avx512"),
    "fused multiply-add of 512 bits": (r"\tvfn?m(?:add|sub)\d{3}ps .*%zmm", "avx512"),
    "mask registers": (r"%k[1-7]\b", "avx512"),
    "vdpbf16ps": (r"\tvdpbf16ps ", "avx512bf16"),
    "conversion to bfloat16": (r"\tvcvtne2?ps(?:2ps)?bf16|\tvcvtneps2bf16", "avx512bf16"),
}
# Families whose loops must hold the level's multiply-add; routing and sampling do not multiply.
MULTIPLYING = {"attention", "experts", "gemm", "loss", "norm_rope"}

pytestmark = [
    pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed"),
    pytest.mark.skipif(
        not (BUILD / "mn_avx2.dir").is_dir(), reason="no build/dev of x86-64 in this checkout"
    ),
]


@cache
def listings(level: str) -> dict[str, str]:
    """Disassembly of a level's objects by family."""
    found: dict[str, str] = {}
    for path in sorted((BUILD / f"mn_{level}.dir").glob("csrc/*/**/*.o")):
        text = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", path],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        family = path.relative_to(BUILD / f"mn_{level}.dir" / "csrc").parts[0]
        found[family] = found.get(family, "") + text
    return found


@pytest.mark.parametrize("name", NAMED)
def test_no_instruction_above_the_level(name: str) -> None:
    pattern, weakest = NAMED[name]
    for level in LEVELS[: LEVELS.index(weakest)]:
        for family, text in listings(level).items():
            hit = re.search(f".*(?:{pattern}).*", text)
            assert hit is None, f"{level}/{family}: {hit.group()}"


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("avx2", "fused multiply-add of 256 bits"),
        ("avx512", "fused multiply-add of 512 bits"),
        ("avx512bf16", "fused multiply-add of 512 bits"),
    ],
)
def test_multiplying_families_hold_it(level: str, name: str) -> None:
    found = {f for f, text in listings(level).items() if re.search(NAMED[name][0], text)}
    assert set(listings(level)) & MULTIPLYING <= found


@pytest.mark.parametrize("family", ["attention", "experts", "gemm"])
def test_bfloat16_products_use_the_instruction_for_them(family: str) -> None:
    assert len(re.findall(NAMED["vdpbf16ps"][0], listings("avx512bf16")[family])) >= 16


@pytest.mark.parametrize("level", LEVELS[1:])
def test_every_family_is_vectorised(level: str) -> None:
    register = r"%ymm\d" if level == "avx2" else r"%zmm\d"
    for family, text in listings(level).items():
        if family != "runtime":
            assert re.search(register, text), family
