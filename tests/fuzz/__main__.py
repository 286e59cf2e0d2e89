"""Random problems of every op, at random ISA levels, thread counts and memory layouts, and models.

    python -m tests.fuzz --seconds 600                            # all ops in turn
    python -m tests.fuzz --op attention --first 4711 --count 1    # one problem again
    python -m tests.fuzz --gpu --seconds 600                      # the CUDA kernels, simulated

A problem is a function of its op and its number alone. Ends with 1 if any failed.
"""

import argparse
import random
import sys
import time
from collections import Counter

from .draws import BACKWARD, DRAWS
from .models import check_model, check_model_on_gpu
from .problem import check, check_on_gpu, draw

MODEL = "model"
_SCHEDULES = ("forward", "reverse", "random")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", choices=(*DRAWS, MODEL), action="append", help="these only")
    parser.add_argument("--first", type=int, default=0, help="number of the first problem")
    parser.add_argument(
        "--count", type=int, help="problems of each op; by default until time is up"
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--gpu", action="store_true", help="on the simulated GPU")
    args = parser.parse_args()

    ops = args.op or [*(op for op in DRAWS if not (args.gpu and op in BACKWARD)), MODEL]
    tried: Counter[str] = Counter()
    failed, number, end = 0, args.first, time.monotonic() + args.seconds
    while (args.count is None or number < args.first + args.count) and time.monotonic() < end:
        for op in ops:
            try:
                if not _tried(op, number, args.gpu):
                    continue
            except Exception as error:
                failed += 1
                what = f"{op} {number}" if op == MODEL else f"{op} {number}: {draw(op, number)}"
                print(f"{what}\n  {type(error).__name__}: {error}", flush=True)
            tried[op] += 1
        number += 1
        if number % 50 == 0:
            print(f"{number - args.first} of each op, {failed} failed", file=sys.stderr, flush=True)
    print(", ".join(f"{op} {tried[op]}" for op in ops))
    print(f"{tried.total()} problems, {failed} failed")
    sys.exit(failed > 0)


def _tried(op: str, number: int, gpu: bool) -> bool:
    """Check one problem; whether it is served at all."""
    schedule = random.Random(number).choice(_SCHEDULES)
    if op == MODEL:
        check_model_on_gpu(number, schedule) if gpu else check_model(number)
        return True
    problem = draw(op, number)
    if gpu:
        return check_on_gpu(op, problem, schedule)
    check(op, problem)
    return True


if __name__ == "__main__":
    main()
