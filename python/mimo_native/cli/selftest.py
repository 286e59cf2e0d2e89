"""``mimo-native selftest``: native kernels against plain torch on this very machine."""

import argparse
import json

SUMMARY = "check the native kernels against plain torch, at every level of this CPU"
EXAMPLES = (
    "mimo-native selftest         # exit status 1 where they disagree; under 5 seconds",
    "mimo-native selftest --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no options of its own


def run(args: argparse.Namespace) -> int:
    from ..self_test import selftest

    report = selftest()
    print(json.dumps(report.as_dict()) if args.json else report)
    return 0 if report.passed else 1
