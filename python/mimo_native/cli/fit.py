"""``mimo-native fit``: will a model fit, and how fast can it be, asked before loading it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..errors import ShapeError

if TYPE_CHECKING:
    from ..config import MiMoConfig

SUMMARY = "count a model's bytes and bound its speed without loading it"
EXAMPLES = (
    "mimo-native fit smollm2",
    "mimo-native fit DIR --context 32768 --batch 4 --dtype stored",
    "mimo-native fit smollm2 --format int4_32 --format head=int8_row",
    "mimo-native fit mimo-v2-flash --context 262144 --kv-format int8",
    "mimo-native fit mimo-v2-flash --memory 640 --bandwidth 800 --json",
)

_GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="a directory, a FILE.gguf, a config.json, smollm2, or mimo-v2-flash for its shapes",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32", "stored"),
        default="bfloat16",
        help="what the weights are held as; stored: as in the files (default: bfloat16)",
    )
    parser.add_argument(
        "--format",
        action="append",
        metavar="F | COMPONENT=F",
        help="of the linear weights, as `convert` takes it: int8_32, experts=mxfp4, ...",
    )
    parser.add_argument("--context", type=int, default=4096, help="tokens per sequence (4096)")
    parser.add_argument("--batch", type=int, default=1, help="sequences at once (1)")
    parser.add_argument(
        "--kv-format",
        choices=("bf16", "int8", "e4m3"),
        help="how global layers store keys and values (default: as they are computed)",
    )
    parser.add_argument("--memory", type=float, help="GB to fit into (default: available now)")
    parser.add_argument("--bandwidth", type=float, help="GB/s of memory (default: measured)")


def run(args: argparse.Namespace) -> int:
    from ..weights.fit import fit
    from .convert import parse_formats

    for option in ("memory", "bandwidth"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise ShapeError("fit", f"--{option}", expected="above 0", got=str(value))
    report = fit(
        _source(args.checkpoint),
        dtype=None if args.dtype == "stored" else args.dtype,
        weight_format=None if args.format is None else parse_formats(args.format),
        context=args.context,
        batch=args.batch,
        kv_format=args.kv_format,
        ram_bytes=None if args.memory is None else int(args.memory * _GB),
        bandwidth=_bandwidth() if args.bandwidth is None else args.bandwidth * _GB,
    )
    print(json.dumps(report.to_dict()) if args.json else report)
    return 0


def _source(name: str) -> MiMoConfig | str:
    if name == "mimo-v2-flash":
        from ..config import MiMoConfig

        return MiMoConfig.mimo_v2_flash()
    if name == "smollm2":
        from ..weights.smollm2 import fetch_smollm2

        return str(fetch_smollm2())
    return name


def _bandwidth() -> float:
    """What all threads together read from memory here, in bytes/s; takes a third of a second."""
    import torch

    from .. import _C

    return _C.probe_bandwidth(256 << 20, torch.get_num_threads())
