"""``mimo-native pretrain``: train from a configuration file, or say what a recipe costs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pretrain import RunResult

SUMMARY = "pre-train a model with multi-token prediction"
EXAMPLES = (
    "mimo-native pretrain report --dry-run                  # the 27 T-token recipe: FLOPs, days",
    "mimo-native pretrain report --dry-run --devices 4096 --peak 989e12 --utilisation 0.4",
    "mimo-native pretrain run.json                          # train, or resume where it stopped",
    "mimo-native pretrain nano --output runs/nano           # the model of this package, anew",
    "mimo-native pretrain smollm2 --output runs/smollm2-mtp # MTP heads on the frozen SmolLM2",
    "mimo-native pretrain ablations --output runs/ablations # what each part is worth, 40 runs",
    "torchrun --nproc-per-node 2 -m mimo_native.cli.main pretrain run.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", help='a JSON file of PretrainConfig, "nano", "smollm2", "ablations" or "report"'
    )
    parser.add_argument("--output", help="directory of a named run (default: runs/NAME)")
    parser.add_argument("--tokens", type=int, help="of a named run's pre-training, each (default)")
    parser.add_argument("--seeds", type=int, default=5, help="of the ablations, each (5)")
    parser.add_argument("--dry-run", action="store_true", help="print the cost and train nothing")
    parser.add_argument("--devices", type=int, default=2048, help="devices for --dry-run")
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of one device")
    parser.add_argument("--utilisation", type=float, default=0.35, help="attained share of it")
    parser.add_argument("--memory", type=float, default=80e9, help="bytes of one device")


def run(args: argparse.Namespace) -> int:
    from ..errors import UnsupportedError
    from ..pretrain import PretrainConfig
    from ..pretrain import run as train

    args.output = args.output or f"runs/{args.config}"
    if args.dry_run:
        return _dry_run(args)
    if args.config == "report":
        raise UnsupportedError(
            "pretrain",
            ["the report's recipe is no run of one machine"],
            remedy="Add --dry-run, or scale it with mimo_native.pretrain.report().scaled(...).",
        )
    try:
        if args.config == "ablations":
            return _ablations(args)
        if args.config in ("nano", "smollm2"):
            result = _build(args)
        else:
            result = train(PretrainConfig.read(args.config), progress=not args.json)
    except FloatingPointError as error:
        print(f"mimo-native pretrain: {error}", file=sys.stderr)
        return 1
    if args.json:
        values = {"status": result.status, "step": result.step, "tokens": result.tokens}
        print(json.dumps(values | {"output": str(result.output)}))
    else:
        print(f"{result.status} at step {result.step}, {result.tokens} tokens: {result.output}")
    return 0


def _build(args: argparse.Namespace) -> RunResult:
    from ..pretrain import nano, smollm2

    given = {} if args.tokens is None else {"tokens": args.tokens}
    if args.config == "nano":
        heads = {} if args.tokens is None else {"head_tokens": args.tokens // 5}
        return nano.build(args.output, progress=not args.json, **given, **heads)
    joint = {} if args.tokens is None else {"joint_tokens": args.tokens * 2}
    return smollm2.build(args.output, progress=None if args.json else _say, **given, **joint)


def _ablations(args: argparse.Namespace) -> int:
    from pathlib import Path

    from ..errors import UnsupportedError
    from ..pretrain.ablations import ablate, draw, table

    given = {} if args.tokens is None else {"tokens": args.tokens}
    rows = ablate(args.output, seeds=args.seeds, progress=_say, **given)
    content = [row.to_dict() for row in rows]
    (Path(args.output) / "ablations.json").write_text(json.dumps(content, indent=1) + "\n")
    try:
        draw(rows, Path(args.output) / "ablations.svg")
    except UnsupportedError as error:  # without matplotlib: the numbers are there
        _say(str(error))
    print(json.dumps(content) if args.json else table(rows))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _dry_run(args: argparse.Namespace) -> int:
    from ..config import MiMoConfig
    from ..pretrain import Hardware, PretrainConfig, estimate, nano, report
    from ..pretrain.presets import report_model

    if args.config == "report":
        model, schedule = report_model(), report()
    elif args.config == "nano":
        trunk, _ = nano.nano_runs(args.output, tokens=args.tokens or 5_000_000)
        model, schedule = nano.nano_model(), trunk.schedule
    else:
        config = PretrainConfig.read(args.config)
        model = config.model or MiMoConfig.from_pretrained(config.init or "")
        schedule = config.schedule
    hardware = Hardware(
        devices=args.devices, peak=args.peak, utilisation=args.utilisation, memory=args.memory
    )
    result = estimate(model, schedule, hardware)
    print(json.dumps(result.to_dict()) if args.json else result)
    return 0
