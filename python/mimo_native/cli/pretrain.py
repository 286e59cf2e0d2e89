"""``mimo-native pretrain``: train from a configuration file, or say what a recipe costs."""

import argparse
import json
import sys

SUMMARY = "pre-train a model with multi-token prediction"
EXAMPLES = (
    "mimo-native pretrain report --dry-run                  # the 27 T-token recipe: FLOPs, days",
    "mimo-native pretrain report --dry-run --devices 4096 --peak 989e12 --utilisation 0.4",
    "mimo-native pretrain run.json                          # train, or resume where it stopped",
    "mimo-native pretrain nano --output runs/nano           # the model of this package, anew",
    "torchrun --nproc-per-node 2 -m mimo_native.cli.main pretrain run.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help='a JSON file of PretrainConfig, "nano" or "report"')
    parser.add_argument("--output", default="runs/nano", help="directory of a nano run")
    parser.add_argument("--tokens", type=int, default=5_000_000, help="of nano's pre-training")
    parser.add_argument("--dry-run", action="store_true", help="print the cost and train nothing")
    parser.add_argument("--devices", type=int, default=2048, help="devices for --dry-run")
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of one device")
    parser.add_argument("--utilisation", type=float, default=0.35, help="attained share of it")
    parser.add_argument("--memory", type=float, default=80e9, help="bytes of one device")


def run(args: argparse.Namespace) -> int:
    from ..errors import UnsupportedError
    from ..pretrain import PretrainConfig, nano
    from ..pretrain import run as train

    if args.dry_run:
        return _dry_run(args)
    if args.config == "report":
        raise UnsupportedError(
            "pretrain",
            ["the report's recipe is no run of one machine"],
            remedy="Add --dry-run, or scale it with mimo_native.pretrain.report().scaled(...).",
        )
    try:
        if args.config == "nano":
            result = nano.build(
                args.output,
                tokens=args.tokens,
                head_tokens=args.tokens // 5,
                progress=not args.json,
            )
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


def _dry_run(args: argparse.Namespace) -> int:
    from ..config import MiMoConfig
    from ..pretrain import Hardware, PretrainConfig, estimate, nano, report
    from ..pretrain.presets import report_model

    if args.config == "report":
        model, schedule = report_model(), report()
    elif args.config == "nano":
        trunk, _ = nano.nano_runs(args.output, tokens=args.tokens)
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
