"""python -m mimo_native.testing.ptxsim check FILE.cu: run a kernel under the checkers on the CPU.

    check saxpy.cu --grid 4 --block 256 --args 1000 2.0 f32[1000] out:f32[1000]

Arguments, in the kernel's order: a number with a point is a float, one without an integer;
TYPE[N] is a tensor of N elements with random contents, TYPE[N]=zeros, =ones or =arange of those;
out:TYPE[N] one that the kernel must not read before it has written it. Types: f64 f32 f16 bf16 i64
i32 i16 i8 u8. The kernel runs in several schedules; the exit status is 1 if anything was found.
"""

import argparse
import re
import sys
from collections.abc import Sequence

import torch

from .arguments import Argument, Output
from .compiler import compile_to_ptx
from .module import Module
from .report import CheckError, Report

__all__ = ["main"]

TYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8,
    "u8": torch.uint8,
}  # fmt: skip
HANG = 1 << 26  # warp instructions: seconds, and more than a kernel under test should need
_TENSOR = re.compile(r"(out:)?(\w+)\[(\d+)\](?:=(random|zeros|ones|arange))?")


def parse_argument(text: str) -> Argument:
    """One word of --args; ValueError says what is wrong with it."""
    match = _TENSOR.fullmatch(text)
    if not match:
        try:
            return int(text, 0) if re.fullmatch(r"-?(0x)?[0-9a-fA-F]+", text) else float(text)
        except ValueError:
            raise ValueError(f"argument {text!r}: expected a number or TYPE[N]") from None
    out, kind, length, contents = match.groups()
    if kind not in TYPES:
        raise ValueError(f"argument {text!r}: no type {kind!r}; there are {', '.join(TYPES)}")
    dtype, n = TYPES[kind], int(length)
    if contents == "arange":
        tensor = torch.arange(n).to(dtype)
    elif contents in ("zeros", "ones"):
        tensor = torch.full((n,), int(contents == "ones"), dtype=dtype)
    elif dtype.is_floating_point:
        tensor = torch.randn(n, generator=torch.Generator().manual_seed(0)).to(dtype)
    else:
        tensor = torch.randint(0, 100, (n,), generator=torch.Generator().manual_seed(0)).to(dtype)
    return Output(tensor) if out else tensor


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.split("[x,]", text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimo_native.testing.ptxsim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check = parser.add_subparsers(dest="command", required=True).add_parser(
        "check", help="run a kernel under the checkers"
    )
    check.add_argument("file", help="a .cu or .ptx file")
    check.add_argument("--kernel", help="(part of) its name; not needed where there is one")
    check.add_argument("--grid", type=_dims, default=(1,), help="1, 4x2 or 4,2,1 (default 1)")
    check.add_argument("--block", type=_dims, default=(32,), help="default 32")
    check.add_argument("--smem", type=int, default=0, help="bytes of dynamic shared memory")
    check.add_argument("--args", nargs="*", default=[], help="see above")
    check.add_argument("--arch", default="sm_80", help="default sm_80")
    check.add_argument("--seeds", type=int, default=4, help="random schedules (default 4)")
    check.add_argument(
        "--limit", type=int, default=HANG, help=f"instructions of a block that hangs ({HANG})"
    )
    check.add_argument("-I", dest="include", action="append", default=[], help="as nvcc's")
    check.add_argument("-D", dest="defines", action="append", default=[], help="as nvcc's")
    check.add_argument("--stats", action="store_true", help="print what the launch did, counted")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        if options.file.endswith(".ptx"):
            with open(options.file) as file:
                text = file.read()
        else:
            text = compile_to_ptx(
                options.file, options.arch, include=options.include, defines=options.defines
            )
        module = Module(text)
        kernel = module.find(options.kernel or "")
        [parse_argument(word) for word in options.args]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
        return 2
    for opcode, times in module.unsupported.items():
        print(f"not supported, a launch that reaches it stops: {opcode} ({times} times)")
    schedules = [("forward", 0), ("reverse", 0), *(("random", i) for i in range(options.seeds))]
    found: dict[tuple[str, int], tuple[Report, str]] = {}
    stats = None
    ran = 0
    for schedule, seed in schedules:
        ran += 1
        args = [parse_argument(word) for word in options.args]
        try:
            stats = module.launch(
                kernel, options.grid, options.block, args,
                smem_bytes=options.smem, schedule=schedule, seed=seed,
                instruction_limit=options.limit,
            )  # fmt: skip
        except CheckError as error:
            for report in error.reports:
                found.setdefault((report.kind, report.ptx_line), (report, f"{schedule} {seed}"))
            if any(report.kind == "hang" for report in error.reports):
                break  # it would take as long in each schedule
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
    for report, schedule in found.values():
        print(f"{report}\n    in schedule {schedule}")
    if options.stats and stats is not None:
        print(stats)
    print(f"{kernel}: {len(found) or 'nothing'} found in {ran} schedule{'s' * (ran > 1)}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
