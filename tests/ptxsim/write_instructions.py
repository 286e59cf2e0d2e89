"""Write csrc/ptxsim/INSTRUCTIONS.md: which instruction forms code proven on hardware has run here.

PYTHONPATH=python:. python tests/ptxsim/write_instructions.py
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from mimo_native.testing import gpu
from mimo_native.testing.ptxsim import Module

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"Triton": "test_triton.py", "CUTLASS": "test_cutlass.py"}
OWN = {
    "own kernels": [
        "tests/ptxsim/test_matrix.py", "tests/ptxsim/test_hopper.py",
        "tests/ptxsim/test_checkers.py", "tests/norm_rope/test_cuda.py",
    ]
}  # fmt: skip
HEADER = """\
# Which instructions are proven

Forms of instructions that ran in the interpreter's tests, and in whose code. Triton's and CUTLASS's
kernels are proven on hardware by others: where their results are right here, their forms are
covered. Everything else is "unproven": tested against its description only. Written by
`tests/ptxsim/write_instructions.py`.

| instruction | covered by |
|---|---|
"""


def main() -> int:
    seen: dict[str, set[str]] = defaultdict(set)
    current = [""]
    launch, collect = Module.launch, gpu.SimulatedGpu._collect

    def record(stats) -> None:
        for i in stats.instructions:
            if i.warps:
                seen[i.opcode].add(current[0])

    def recorded_launch(self, *args, **kwargs):
        stats = launch(self, *args, **kwargs)
        record(stats)
        return stats

    def recorded_collect(self, error) -> None:
        before = len(self.launches)
        collect(self, error)
        for done in self.launches[before:]:
            record(done.stats)

    Module.launch, gpu.SimulatedGpu._collect = recorded_launch, recorded_collect
    runs = {name: [f"tests/ptxsim/{file}"] for name, file in SOURCES.items()} | OWN
    for name, files in runs.items():
        current[0] = name
        if pytest.main(["-q", "-p", "no:cacheprovider", *[str(ROOT / file) for file in files]]):
            return 1
    rows = []
    for opcode in sorted(seen):
        proven = [name for name in SOURCES if name in seen[opcode]]
        rows.append(f"| `{opcode}` | {', '.join(proven) or 'unproven'} |")
    table = (ROOT / "csrc/ptxsim/opcodes.cpp").read_text()
    roots = re.findall(r'^ +\{"(\w+)", decode', table, re.M)
    ran = {opcode.split(".")[0] for opcode, names in seen.items() if names & set(SOURCES)}
    idle = ", ".join(f"`{root}`" for root in sorted(set(roots) - ran))
    text = HEADER + "\n".join(rows) + "\n\n"
    text += f"Instructions none of whose forms Triton or CUTLASS ran, all unproven: {idle}.\n"
    (ROOT / "csrc/ptxsim/INSTRUCTIONS.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
