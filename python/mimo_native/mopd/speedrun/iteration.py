"""Teacher iteration: a second round of specialists and distillation after a speedrun.

    python -m mimo_native.mopd.speedrun.iteration runs/speedrun --seeds 3

The distilled student enters the second stage again, as in section 4 of the report. Leaves
iteration.json beside the speedrun.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .recipe import Recipe, Size
from .study import INTERVAL, error, mean, score_stage
from .tasks import SELF, TASKS

__all__ = ["iterate"]


def iterate(
    output: str | Path, seeds: int, *, prompts: int | None = None, size: Size
) -> dict[str, Any]:
    """A second round for every seed. {domain: {"first", "teacher", "second", "difference" of the
    second round to the first on the same prompts, "interval", 95 % over prompts}}.
    """
    scores: dict[str, list[dict[str, torch.Tensor]]] = {}
    for seed in range(seeds):
        recipe = Recipe(Path(output) / f"seed-{seed}", size, seed=seed)
        print(f"seed {seed}: the second round", file=sys.stderr, flush=True)
        with recipe.timed("second"):
            recipe.second_round()
        for stage in ("mopd", "second"):
            scores.setdefault(stage, []).append(score_stage(recipe, stage, limit=prompts))
        taught = {
            task: score_stage(recipe, f"second-{task}", names=(task,), limit=prompts)[task]
            for task in TASKS
        }
        scores.setdefault("teacher", []).append(taught | {SELF: scores["mopd"][-1][SELF]})
    rows = {}
    for name in (*TASKS, SELF):
        first, teacher, second = (
            torch.cat([own[name] for own in scores[stage]])
            for stage in ("mopd", "teacher", "second")
        )
        rows[name] = {
            "first": mean(first),
            "teacher": mean(teacher),
            "second": mean(second),
            "difference": mean(second - first),
            "interval": INTERVAL * error(second - first),
        }
    (Path(output) / "iteration.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    from . import FULL

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", help="directory of a speedrun")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=500, help="scored of each domain")
    parser.add_argument("--heldout", type=int, default=FULL.heldout, help="that the speedrun had")
    args = parser.parse_args()
    size = replace(FULL, heldout=args.heldout)
    rows = iterate(args.output, args.seeds, prompts=args.prompts, size=size)
    for name, row in rows.items():
        print(
            f"{name:8} {row['first']:7.4f} -> {row['second']:7.4f}   teacher {row['teacher']:7.4f}"
            f"   {row['difference']:+.4f} ± {row['interval']:.4f}"
        )


if __name__ == "__main__":
    main()
