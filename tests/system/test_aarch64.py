"""Kernels of a build for 64-bit Arm, run by qemu: the bits of this machine's scalar level."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native import _C

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ROOT / "build" / "aarch64" / "CMakeFiles"
KERNELS = [
    OBJECTS / "mn_scalar.dir" / "csrc" / family / "kernels.cpp.o"
    for family in ("norm_rope", "routing")
]
RUNTIME = OBJECTS / "_C.dir" / "csrc" / "runtime" / "isa.cpp.o"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"

pytestmark = [
    pytest.mark.skipif(not RUNTIME.exists(), reason="no build/aarch64; see docs/contributing.md"),
    pytest.mark.skipif(
        shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
        reason="no cross compiler or emulator",
    ),
]


@pytest.fixture
def scalar():
    before = _C.isa()
    _C.set_isa("scalar")
    yield
    _C.set_isa(before)


def test_same_bits_as_this_machine(tmp_path: Path, scalar) -> None:
    driver = tmp_path / "driver"
    source = Path(__file__).with_name("aarch64_driver.cpp")
    flags = ["-std=c++20", "-fopenmp", f"-I{ROOT}/csrc", "-o", driver]
    subprocess.run([COMPILER, *flags, source, *KERNELS, RUNTIME], check=True)
    tokens, experts, top_k = 7, 100, 8
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0))
    header = torch.tensor([tokens, experts, top_k])
    result = subprocess.run(
        [EMULATOR, "-L", "/usr/aarch64-linux-gnu", driver],
        input=header.numpy().tobytes() + logits.numpy().tobytes(),
        capture_output=True,
        check=True,
    )
    values = torch.frombuffer(bytearray(result.stdout), dtype=torch.int32)
    slots = tokens * top_k
    ids, weights, normed = values.split([slots, slots, tokens * experts])

    want_ids, want_weights = mn.ops.route(logits, top_k=top_k)
    assert torch.equal(ids, want_ids.flatten())
    assert torch.equal(weights, want_weights.flatten().view(torch.int32))
    want = mn.ops.rms_norm(logits, torch.ones(experts))
    assert torch.equal(normed, want.flatten().view(torch.int32))
