"""What a launch did, counted without a clock."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["InstructionStats", "Stats"]


class InstructionStats(NamedTuple):
    """The counts of one instruction of the kernel."""

    opcode: str
    ptx_line: int
    file: str
    line: int
    warps: int
    lanes: int
    requests: int
    wavefronts: int
    ideal_wavefronts: int
    sectors: int
    bytes: int


@dataclass(frozen=True)
class Stats:
    """Counts of a launch, instruction by instruction and summed."""

    kernel: str
    instructions: tuple[InstructionStats, ...]

    @property
    def warp_instructions(self) -> int:
        return sum(i.warps for i in self.instructions)

    @property
    def lane_instructions(self) -> int:
        return sum(i.lanes for i in self.instructions)

    @property
    def opcodes(self) -> Counter[str]:
        """Executions by warps, by opcode."""
        counts: Counter[str] = Counter()
        for i in self.instructions:
            counts[i.opcode] += i.warps
        return counts

    @property
    def lines(self) -> Counter[tuple[str, int]]:
        """Executions by warps, by (file, line) of the source; 0: the line was not reached."""
        counts: Counter[tuple[str, int]] = Counter()
        for i in self.instructions:
            counts[i.file, i.line] += i.warps
        return counts

    @property
    def bank_conflicts(self) -> int:
        """Passes over the banks of shared memory beyond those that the data volume asks for."""
        return sum(i.wavefronts - i.ideal_wavefronts for i in self.instructions)

    @property
    def global_bytes(self) -> int:
        """Bytes that the lanes asked of global memory."""
        return sum(i.bytes for i in self.instructions if i.sectors)

    @property
    def global_sectors(self) -> int:
        """32-byte sectors that the requests touched; 32 * sectors / bytes is 1 at best."""
        return sum(i.sectors for i in self.instructions)

    def __str__(self) -> str:
        lines = [
            f"{self.kernel}: {self.warp_instructions} warp instructions, "
            f"{self.bank_conflicts} bank conflicts, {self.global_sectors} sectors for "
            f"{self.global_bytes} bytes of global memory"
        ]
        lines += [f"  {count:10d}  {opcode}" for opcode, count in self.opcodes.most_common(12)]
        return "\n".join(lines)
