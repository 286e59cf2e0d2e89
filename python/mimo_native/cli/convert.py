"""``mimo-native convert``: a checkpoint in the kernels' own layout, which loads by mapping it."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "quantise or repack a checkpoint once, so that it loads at once"
EXAMPLES = (
    "mimo-native convert DIR DIR-int8 --format int8_32",
    "mimo-native convert smollm2 smollm2-stored --format stored",
    "mimo-native convert DIR DST --format experts=int4_32 --format head=int8_row --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a directory, a FILE.gguf, or smollm2")
    parser.add_argument("target", help="the directory to write; a packed one there is replaced")
    parser.add_argument(
        "--format",
        action="append",
        required=True,
        metavar="F | COMPONENT=F",
        help="bf16, f32, e4m3_128x128, int8_row, int8_32, int8_row_a8, int8_32_a8, int4_32, mxfp4, "
        "or stored: codes as they are. COMPONENT: attention, dense, experts, head or mtp",
    )
    parser.add_argument("--mtp", metavar="DIR", help="MTP heads that join a model without")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the activations"
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from ..weights.convert import convert
    from ..weights.resolve import resolve_model

    def progress(name: str, done: int, total: int) -> None:
        if not args.json and sys.stderr.isatty():
            print(f"\r{done}/{total} {name:<60.60}", end="", file=sys.stderr, flush=True)

    report = convert(
        resolve_model(args.source),
        args.target,
        weight_format=parse_formats(args.format),
        dtype=getattr(torch, args.dtype),
        mtp=args.mtp,
        progress=progress,
    )
    if not args.json and sys.stderr.isatty():
        print(file=sys.stderr)
    print(json.dumps(report.to_dict()) if args.json else report)
    return 0


def parse_formats(given: list[str]) -> str | dict[str, str]:
    """One for all, or some components' own; both together: the rest get the one for all."""
    from ..weights.formats import COMPONENTS

    everywhere = [text for text in given if "=" not in text]
    own = dict(text.split("=", 1) for text in given if "=" in text)
    if not own:
        return everywhere[-1]
    return (dict.fromkeys(COMPONENTS, everywhere[-1]) if everywhere else {}) | own
