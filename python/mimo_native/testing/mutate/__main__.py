"""python -m mimo_native.testing.mutate [SUBJECT ..]: the raw rate, and what survived."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .campaign import run
from .result import Outcome, stale
from .subjects import SUBJECTS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mimo_native.testing.mutate")
    parser.add_argument("subjects", nargs="*", help=f"default: all of {', '.join(SUBJECTS)}")
    parser.add_argument("--capability", help="of the simulated GPU (default: the subject's own)")
    parser.add_argument("--sample", type=int, help="so many mutants of each, at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--record", type=Path, help="JSON lines to append to, and to go on from")
    parser.add_argument(
        "--forward", action="store_true", help="predicates and bounds in one schedule of the three"
    )
    parser.add_argument("--verbose", action="store_true", help="a line for each mutant")
    options = parser.parse_args(argv)
    names = options.subjects or list(SUBJECTS)
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        parser.error(f"no subject {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    capability = None
    if options.capability:
        major, minor = options.capability.split(".")
        capability = int(major), int(minor)
    results = []
    for name in names:
        results.append(
            run(
                SUBJECTS[name],
                capability=capability,
                sample=options.sample,
                seed=options.seed,
                progress=_say if options.verbose else None,
                record=options.record,
                forward=options.forward,
            )
        )
        print(results[-1], flush=True)
    if options.sample is None:
        for argument in stale(results):
            print(f"stale, covers no survivor: {argument.name} ({', '.join(argument.files)})")
    return 0


def _say(outcome: Outcome) -> None:
    print(f"{outcome.noticed or 'SURVIVES'}: {outcome}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
