"""What ptxas made of the kernels that ship: registers, stack and shared memory, read from the code
for each architecture inside an extension module.

    for kernel in kernel_resources(path):
        assert kernel.stack_bytes == 0  # nothing is spilled, and no array lies in local memory

    python -m mimo_native.testing.cubin > csrc/runtime/cuda/KERNELS.md

The format is ELF; the numbers come from its attribute sections, as NVIDIA's tools print them.
"""

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KernelResources", "kernel_resources", "readable", "table"]

_MAGIC = b"\x7fELF\x02\x01"
_MACHINE_CUDA = 190
_NO_BITS = 8
# Attributes of .nv.info: (format, name) and a value of 4 bytes or a (symbol, value) pair.
_SIZED = 4
_REGISTERS, _FRAME_SIZE = 0x2F, 0x11


@dataclass(frozen=True)
class KernelResources:
    """One kernel on one architecture. ``shared_bytes`` are those that it declares itself."""

    name: str
    architecture: int
    registers: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    body: bytes
    size: int


def kernel_resources(path: str | os.PathLike[str]) -> list[KernelResources]:
    """Of every kernel in an object or a module that was built with --no-compress."""
    data = Path(path).read_bytes()
    found: list[KernelResources] = []
    at = data.find(_MAGIC)
    while at >= 0:
        if struct.unpack_from("<H", data, at + 18)[0] == _MACHINE_CUDA:
            found += _of_image(data[at:])
        at = data.find(_MAGIC, at + 1)
    return found


def _of_image(elf: bytes) -> Iterator[KernelResources]:
    architecture = _architecture(struct.unpack_from("<I", elf, 48)[0])
    sections = list(_sections(elf))
    by_name = {section.name: section for section in sections}
    names = _symbols(by_name[".symtab"].body, by_name[".strtab"].body)
    registers, frames = {}, {}
    for attribute, symbol, value in _attributes(by_name[".nv.info"].body):
        if attribute == _REGISTERS:
            registers[names[symbol]] = value
        elif attribute == _FRAME_SIZE:
            frames[names[symbol]] = value
    for name, count in registers.items():
        if f".text.{name}" in by_name:
            shared = by_name.get(f".nv.shared.{name}")
            size = shared.size if shared else 0
            yield KernelResources(name, architecture, count, frames.get(name, 0), size)


def _architecture(flags: int) -> int:
    """90 for sm_90 and sm_90a. Newer toolkits have moved the number up by a byte."""
    low, next_byte = flags & 0xFF, flags >> 8 & 0xFF
    return next_byte if 50 <= next_byte <= 130 else low


def _sections(elf: bytes) -> Iterator[_Section]:
    begin = struct.unpack_from("<Q", elf, 40)[0]
    size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, begin + i * size) for i in range(count)]
    names = elf[headers[names_index][4] :]
    for name, kind, _, _, offset, length in headers:
        body = b"" if kind == _NO_BITS else elf[offset : offset + length]
        yield _Section(_text_at(names, name), kind, body, length)


def _symbols(table: bytes, strings: bytes) -> list[str]:
    return [_text_at(strings, entry[0]) for entry in struct.iter_unpack("<IBBHQQ", table)]


def _attributes(info: bytes) -> Iterator[tuple[int, int, int]]:
    """(attribute, symbol, value) of those that name a symbol."""
    at = 0
    while at + 4 <= len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != _SIZED:
            continue
        if size == 8:
            yield (attribute, *struct.unpack_from("<II", info, at))
        at += size


def _text_at(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


def readable(names: list[str]) -> dict[str, str]:
    """Kernels by their mangled names, as "name<template arguments>"; needs c++filt."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    ).stdout
    return dict(zip(names, map(_short, text.splitlines()), strict=True))


def _short(signature: str) -> str:
    if signature.startswith("_ZN7cutlass"):  # beyond what c++filt takes apart
        return "cutlass::device_kernel"
    # All values of a template are numbers here; an enumerator is printed as one with its type.
    name = re.sub(r"\(anonymous namespace\)::|mn::|__nv_", "", signature.removeprefix("void "))
    name = re.sub(r"\((?:int|bool|\w+)\)", "", name)
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:at]
    return name


def table(kernels: list[KernelResources]) -> str:
    """Markdown: a row for each kernel, its registers and static shared memory on each chip."""
    architectures = sorted({k.architecture for k in kernels})
    names = readable(sorted({k.name for k in kernels}))
    found = {(names[k.name], k.architecture): k for k in kernels}
    heads = [f"sm_{a} registers | shared" for a in architectures]
    lines = [f"| kernel | {' | '.join(heads)} |", "|---|" + "---|" * 2 * len(architectures)]
    for name in sorted({name for name, _ in found}):
        cells = []
        for a in architectures:
            k = found.get((name, a))
            cells += [str(k.registers), str(k.shared_bytes)] if k else ["", ""]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


_PAGE = """# What the kernels take

Registers of a thread and static shared memory of a block in bytes (on sm_90 with the 1024 that the
system takes), as ptxas of CUDA 13.0 laid them out. Nothing is spilled.
Dynamic shared memory is on the pages of the families. Written by
`python -m mimo_native.testing.cubin`; a test holds the kernels to these registers.

"""


def main() -> int:
    spec = importlib.util.find_spec("mimo_native._cuda")
    if spec is None or spec.origin is None or shutil.which("c++filt") is None:
        print("needs a build with CUDA kernels, and c++filt", file=sys.stderr)
        return 1
    sys.stdout.write(_PAGE + table(kernel_resources(spec.origin)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
