"""python -m mimo_native.mopd.smollm2 OUTPUT"""

import argparse
from dataclasses import replace

from ...errors import UnsupportedError
from . import FORMS, Size, distil_smollm2
from .study import draw


def main() -> None:
    default = Size()
    parser = argparse.ArgumentParser(
        prog="python -m mimo_native.mopd.smollm2",
        description="Two specialists of SmolLM2-135M and a student that is taught by both.",
    )
    parser.add_argument("output", help="directory; a second call goes on where the first stopped")
    parser.add_argument("--specialist", type=int, default=default.specialist, help="steps of each")
    parser.add_argument("--distil", type=int, default=default.distil, help="steps")
    parser.add_argument("--scored", type=int, default=default.scored, help="prompts of a domain")
    parser.add_argument(
        "--form", action="append", choices=FORMS, help="of the loss; full, and may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = distil_smollm2(
        args.output,
        replace(default, specialist=args.specialist, distil=args.distil, scored=args.scored),
        forms=tuple(args.form or ("full",)),
        seed=args.seed,
        progress=True,
    )
    for name, row in results["table"].items():
        shares = "  ".join(
            f"{label} {row[label]:8.4f} ± {row['intervals'][label]:.4f}"
            for label in ("student", "teacher", "after")
        )
        last = row.get("normalised")
        tail = "" if last is None else f"  normalised {last:.3f}"
        print(f"{name:13} {shares}  difference {row['difference']:+.4f}{tail}")
    try:
        print(draw(results, f"{args.output}/curves.svg"))
    except UnsupportedError as error:
        print(error)


if __name__ == "__main__":
    main()
