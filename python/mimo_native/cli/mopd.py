"""``mimo-native mopd``: post-train from a configuration file."""

import argparse
import json
import sys

SUMMARY = "post-train: multi-teacher on-policy distillation, rewards, or fine-tuning"
EXAMPLES = (
    "mimo-native mopd run.json                # train, or resume where it stopped",
    "mimo-native mopd sft.json --sft          # supervised fine-tuning on prompts with answers",
    "torchrun --nproc-per-node 2 -m mimo_native.cli.main mopd run.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a JSON file of MopdConfig, or of SftConfig with --sft")
    parser.add_argument("--sft", action="store_true", help="learn the prompts' own answers")


def run(args: argparse.Namespace) -> int:
    from .. import mopd

    try:
        if args.sft:
            result = mopd.sft(mopd.SftConfig.read(args.config), progress=not args.json)
        else:
            result = mopd.run(mopd.MopdConfig.read(args.config), progress=not args.json)
    except FloatingPointError as error:
        print(f"mimo-native mopd: {error}", file=sys.stderr)
        return 1
    if args.json:
        values = {"status": result.status, "step": result.step, "output": str(result.output)}
        print(json.dumps(values))
    else:
        print(f"{result.status} at step {result.step}: {result.output}")
    return 0
