"""``mimo-native plot``: a run's log as a picture."""

import argparse
import json

SUMMARY = "draw a run's losses, expert loads, gradients and speed"
EXAMPLES = (
    "mimo-native plot RUN                                   # writes RUN/metrics.png",
    "mimo-native plot RUN --out curves.svg",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", metavar="RUN", help="the output directory of a run")
    parser.add_argument("--out", help="where to; .png, .svg or .pdf (default RUN/metrics.png)")


def run(args: argparse.Namespace) -> int:
    from ..training.plot import plot

    path = plot(args.run_directory, args.out)
    print(json.dumps({"plot": str(path)}) if args.json else path)
    return 0
