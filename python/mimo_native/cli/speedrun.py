"""``mimo-native speedrun``: the whole story on one small machine, ending in a report."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

SUMMARY = "nano, its specialists, their distillation and speculative decoding, with a report"
EXAMPLES = (
    "mimo-native speedrun                               # minutes on 2 cores, offline",
    "mimo-native speedrun --short                       # the same, smaller",
    "mimo-native speedrun --seeds 3 --prompts 2000      # with intervals one can lean on",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/speedrun", help="directory of all runs")
    parser.add_argument("--short", action="store_true", help="a third of the work")
    parser.add_argument("--seeds", type=int, default=1, help="how many times, from the student on")
    parser.add_argument("--prompts", type=int, help="held-out prompts per domain and seed")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes of one thread each, 1: this one alone; every usable core where not given",
    )


def run(args: argparse.Namespace) -> int:
    from ..errors import ShapeError
    from ..mopd.speedrun import FULL, SHORT, speedrun, usable_cores

    least = {"seeds": 1, "prompts": 2, "workers": 1}
    for name, value in ((name, getattr(args, name)) for name in least):
        if value is not None and value < least[name]:
            expected = f"at least {least[name]}"
            raise ShapeError("speedrun", f"--{name}", expected=expected, got=str(value))
    size = SHORT if args.short else FULL
    if args.prompts is not None:
        size = replace(size, heldout=args.prompts)
    workers = args.workers or usable_cores()
    results = speedrun(
        args.out, size, seeds=range(args.seeds), workers=workers, progress=not args.json
    )
    if args.json:
        print(json.dumps(results))
        return 0
    for name, row in results["table"].items():
        after = f"{row['student']:8.3f} -> {row['after']:6.3f}   teacher {row['teacher']:6.3f}"
        value = row.get("normalised")
        share = "" if value is None else f"   normalised {value:5.2f}"
        print(f"{name:8} {after} ({row['kind']}){share}")
    print(f"{results['seconds']:.0f} s: {Path(args.out) / 'report.html'}")
    return 0
