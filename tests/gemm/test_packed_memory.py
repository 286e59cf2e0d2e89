"""Packing expert by expert: the packed bytes are the only copy, also at the peak."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from mimo_native.ops import PackedWeight

def peak():  # bytes; getrusage would count the parent's, from before exec
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

# 256 MiB, beside which the library pages that are touched late, about 10 MB, are little.
experts, outputs, inputs = 256, 512, 1024
one = torch.full((outputs, inputs), 1.0, dtype=torch.bfloat16)
PackedWeight.empty((1, outputs, inputs)).write(0, one)
before = peak()
packed = PackedWeight.empty((experts, outputs, inputs))
for expert in range(experts):
    packed.write(expert, torch.full((outputs, inputs), expert + 1.0, dtype=torch.bfloat16))
grown = peak() - before
assert packed.storage.view(torch.bfloat16)[-1] == experts  # every expert has been written
print(grown / packed.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_memory_of_packing() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, timeout=60
    )
    ratio = float(result.stdout)
    assert 0.9 < ratio <= 1.1
