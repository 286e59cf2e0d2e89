"""From nano to distillation and speculative decoding in one command, offline.

    from mimo_native.mopd.speedrun import FULL, speedrun

    results = speedrun("runs/speedrun", FULL)

``mimo-native speedrun --out runs/speedrun`` does the same and is what its report.html shows.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...loading import load
from ..prompts import read_prompts
from .recipe import Recipe, Size
from .report import write_report
from .study import acceptance, curves, mean, normalised, rollouts_to, score_stage, summary
from .tasks import SELF, TASKS

__all__ = ["FULL", "SHORT", "Recipe", "Size", "speedrun"]

FULL = Size(student=600, specialist=80, reward=30, distil=60)
SHORT = Size(
    student=250,
    specialist=40,
    reward=15,
    distil=12,
    train=8_000,
    heldout=200,
    curve_every=6,
    curve_prompts=64,
    rollouts=128,
)
_ALPHA = 0.3  # of the outcome; the report does not give its own
_STAGES = ("mopd", "mopd without ORM", "ORM only")


def speedrun(
    output: str | Path,
    size: Size = FULL,
    *,
    seeds: Sequence[int] = (0,),
    baselines: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Run every stage for every seed, write ``output``/results.json and report.html.

    Continues where an earlier call stopped. Returns the results: "normalised" {domain: score} is
    the mean over seeds, "seconds" the time of this call, and "table", "others", "curves",
    "rollouts", "costs" and "speculation" what the report shows.
    """
    began, output = time.perf_counter(), Path(output)
    recipes = [Recipe(output / f"seed-{seed}", size, seed=seed) for seed in seeds]
    for recipe in recipes:
        _run(recipe, baselines, _teller(began, progress))
    stages = ["student", *(f"specialist-{task}" for task in TASKS), *_names(baselines)]
    scores = {
        stage: {
            name: torch.cat([score_stage(recipe, stage)[name] for recipe in recipes])
            for name in (*TASKS, SELF)
        }
        for stage in stages
    }
    table = summary(scores)
    points = _mean_curves([curves(recipe, _STAGES) for recipe in recipes])
    results: dict[str, Any] = {
        "normalised": {n: row["normalised"] for n, row in table.items() if "normalised" in row},
        "seconds": time.perf_counter() - began,
        "seeds": list(seeds),
        "threads": torch.get_num_threads(),
        "table": table,
        "others": {
            stage: {
                task: normalised(
                    table[task]["student"], table[task]["teacher"], mean(scores[stage][task])
                )
                for task in TASKS
            }
            for stage in _names(baselines)
        },
        "scores": {stage: {n: mean(v) for n, v in own.items()} for stage, own in scores.items()},
        "curves": points,
        "rollouts": {task: _reached(table[task], points[task]) for task in TASKS},
        "costs": {str(recipe.seed): recipe.costs() for recipe in recipes},
        "speculation": _speculation(recipes[0]),
    }
    _write(output / "results.json", json.dumps(results, indent=1) + "\n")
    write_report(output / "report.html", results)
    return results


def _names(baselines: bool) -> tuple[str, ...]:
    return (*_STAGES, *(("averaged", "offline") if baselines else ()))


def _run(recipe: Recipe, baselines: bool, tell: Any) -> None:
    tell(f"seed {recipe.seed}: the student, {recipe.size.student} steps")
    with recipe.timed("student"):
        recipe.student()
    for task in TASKS:
        tell(f"seed {recipe.seed}: the specialist of {task}")
        with recipe.timed(f"specialist-{task}"):
            recipe.specialist(task)
    for stage, alpha, teachers in zip(
        _STAGES, (_ALPHA, 0.0, 1.0), (True, True, False), strict=True
    ):
        tell(f"seed {recipe.seed}: {stage}")
        with recipe.timed(stage):
            recipe.distil(stage, alpha=alpha, teachers=teachers)
    if baselines:
        tell(f"seed {recipe.seed}: specialists averaged, and their samples learned offline")
        with recipe.timed("averaged"):
            recipe.averaged()
        with recipe.timed("offline"):
            recipe.offline()
    tell(f"seed {recipe.seed}: scores")


def _teller(began: float, progress: bool) -> Any:
    def tell(text: str) -> None:
        if progress:
            print(f"[{time.perf_counter() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    return tell


def _mean_curves(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Point by point over the seeds, whose runs score at the same steps."""
    return {
        name: {
            stage: [
                (points[0][0], sum(y for _, y in points) / len(points))
                for points in zip(*(run[name][stage] for run in runs), strict=True)
            ]
            for stage in runs[0][name]
        }
        for name in runs[0]
    }


def _reached(row: dict[str, Any], stages: dict[str, Any]) -> dict[str, int | None]:
    goal = row["student"] + 0.9 * (row["teacher"] - row["student"])
    return {stage: rollouts_to(points, goal) for stage, points in stages.items()}


def _speculation(recipe: Recipe) -> dict[str, Any]:
    """The distilled model's own heads, on some prompts of every domain."""
    model, tokenizer = load(recipe.model("mopd"))
    vocab = model.config.vocab_size
    prompts = {
        name: read_prompts(name, recipe.tasks / f"{name}.heldout.jsonl", tokenizer, vocab)[:16]
        for name in (*TASKS, SELF)
    }
    return acceptance(recipe.model("mopd"), prompts)


def _write(path: Path, text: str) -> None:
    stage = path.with_suffix(".partial")
    stage.write_text(text, encoding="utf-8")
    os.replace(stage, path)
