"""Real text: SmolLM2-135M becomes two specialists by adapters, and is taught by both.

    python -m mimo_native.mopd.smollm2 runs/mopd-smollm2

Each specialist learns the right answers of one task; the student then learns from its own rollouts,
on each task by that specialist and on ordinary requests by itself. docs/mopd_smollm2.md shows what
came out.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..config import LossConfig
from ..speedrun.tasks import write_text
from .recipe import PROSE, Recipe, Size
from .study import curves, score_stage, table, tokens
from .tasks import TASKS

__all__ = ["FORMS", "Recipe", "Size", "distil_smollm2"]

# The exact divergence, and the report's own estimate of it from the sampled token.
FORMS = {"full": LossConfig(form="full"), "sampled": LossConfig(form="sampled")}


def distil_smollm2(
    output: str | Path,
    size: Size | None = None,
    *,
    base: str = "smollm2",
    forms: tuple[str, ...] = ("full",),
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Run what is missing of all stages and write ``output``/results.json, which is returned.

    "table" is of the first of ``forms``, "others" of the rest; "costs" and "tokens" are by stage.
    Raises as ``mopd.run`` does.
    """
    began = time.perf_counter()
    recipe = Recipe(output, size, base=base, seed=seed, progress=progress)

    def stage(name: str, left: str, work: Any, cost: str | None = None) -> None:
        """Unless what it leaves behind is there."""
        if not (recipe.output / left).exists():
            if progress:
                print(f"[{time.perf_counter() - began:5.0f} s] {name}", file=sys.stderr, flush=True)
            with recipe.timed(cost or name):
                work()

    stage("texts", f"tasks/{PROSE}.heldout.jsonl", recipe.texts)
    specialists = [f"specialist-{task}" for task in TASKS]
    for task, name in zip(TASKS, specialists, strict=True):
        stage(name, f"{name}/final", partial(recipe.specialist, task))
    runs = [f"mopd-{form}" for form in forms]
    for form, name in zip(forms, runs, strict=True):
        stage(name, f"{name}/final", partial(recipe.distil, name, FORMS[form]))
    stages = ["student", *specialists, *runs]
    for name in stages:
        stage(
            f"scores of {name}", f"{name}/scores.json", partial(score_stage, recipe, name), "scores"
        )
    scores = {name: score_stage(recipe, name) for name in stages}
    results = {
        "base": base,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "table": table(scores, runs[0]),
        "others": {name: table(scores, name) for name in runs[1:]},
        "curves": curves(recipe, runs, scores["student"]),
        "tokens": tokens(recipe, [*specialists, *runs]),
        "costs": recipe.costs(),
    }
    write_text(recipe.output / "results.json", json.dumps(results, indent=1) + "\n")
    return results
