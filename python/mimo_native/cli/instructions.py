"""Which named instructions a shared object really holds, found in its machine code.

A build that lost its compiler flags still imports, runs and is slow; the names of the levels in the
build record would not show it. The encodings are matched as byte patterns, so no disassembler is
needed; a pattern fixes 19 bits or more, and accidental matches are rarer than one in a megabyte.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["LEVEL_INSTRUCTIONS", "count_instructions"]

# What must be found for a level's kernels to be what they say.
LEVEL_INSTRUCTIONS = {
    "scalar": (),
    "avx2": ("vfmaddps ymm",),
    "avx512": ("vfmaddps zmm",),
    "avx512bf16": ("vdpbf16ps zmm",),
}

_X86_64, _EXECUTABLE = 62, 0x4


def _among(members: Iterable[int]) -> bytes:
    """A character class of these bytes."""
    return b"[" + b"".join(b"\\x%02x" % b for b in members) + b"]"


def _masked(mask: int, value: int) -> bytes:
    """A character class of the bytes b with b & mask == value."""
    return _among(b for b in range(256) if b & mask == value)


def _vex(prefix: int, length: int, *opcodes: int) -> re.Pattern[bytes]:
    return re.compile(
        b"\xc4" + _masked(0x1F, 2) + _masked(0x87, length << 2 | prefix) + _among(opcodes)
    )


def _evex(prefix: int, length: int, *opcodes: int) -> re.Pattern[bytes]:
    return re.compile(
        b"\x62"
        + _masked(0x0F, 2)
        + _masked(0x87, 4 | prefix)
        + _masked(0x60, length << 5)
        + _among(opcodes)
    )


# All in opcode map 2 (0F38), W = 0. Prefix 1 is 66, 2 is F3; length 1 is 256 bits, 2 is 512.
_FMA = (0x98, 0xA8, 0xB8)
_PATTERNS = {
    "vfmaddps ymm": _vex(1, 1, *_FMA),
    "vfmaddps zmm": _evex(1, 2, *_FMA),
    "vdpbf16ps zmm": _evex(2, 2, 0x52),
}


def count_instructions(path: Path) -> dict[str, int] | None:
    """How often each instruction occurs in ``path``; None where it is not x86-64 code."""
    sections = list(_code(path.read_bytes()))
    if not sections:
        return None
    return {
        name: sum(len(pattern.findall(code)) for code in sections)
        for name, pattern in _PATTERNS.items()
    }


def _code(elf: bytes) -> Iterator[bytes]:
    """The executable sections of a 64-bit little-endian ELF file for x86-64."""
    if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", elf, 18)[0] != _X86_64:
        return
    table = struct.unpack_from("<Q", elf, 40)[0]
    size, count = struct.unpack_from("<HH", elf, 58)
    for at in range(table, table + size * count, size):
        flags, _, offset, length = struct.unpack_from("<4Q", elf, at + 8)
        if flags & _EXECUTABLE:
            yield elf[offset : offset + length]
