"""From nano to distillation and speculative decoding in one command, offline.

    from mimo_native.mopd.speedrun import FULL, speedrun

    results = speedrun("runs/speedrun", FULL)

``mimo-native speedrun --out runs/speedrun`` does the same and is what its report.html shows.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...loading import load
from ..prompts import read_prompts
from .jobs import Job, run_jobs, usable_cores
from .recipe import Recipe, Size
from .report import write_report
from .study import acceptance, curves, mean, normalised, rollouts_to, score_stage, summary
from .tasks import SELF, TASKS, write_text

__all__ = ["FULL", "SHORT", "Recipe", "Size", "speedrun", "usable_cores"]

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
# The arms: weight of the outcome, and whether there are teachers.
_ARMS = {"mopd": (_ALPHA, True), "mopd without ORM": (0.0, True), "ORM only": (1.0, False)}


def speedrun(
    output: str | Path,
    size: Size = FULL,
    *,
    seeds: Sequence[int] = (0,),
    baselines: bool = True,
    workers: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """Run every stage for every seed, write ``output``/results.json and report.html.

    workers: processes of one thread each that share the work, with the same results; more than one
    needs ``if __name__ == "__main__"`` around the call in a script. Continues where an earlier call
    stopped. Returns the results: "normalised" {domain: score} is
    the mean over seeds, "seconds" the time of this call, and "table", "others", "curves",
    "rollouts", "costs" and "speculation" what the report shows.
    """
    began, output = time.perf_counter(), Path(output)
    recipes = [Recipe(output / f"seed-{seed}", size, seed=seed) for seed in seeds]
    jobs = [job for recipe in recipes for job in _jobs(recipe, baselines)]
    run_jobs(jobs, workers=workers, tell=_teller(began, progress))
    stages = ["student", *(f"specialist-{task}" for task in TASKS), *_names(baselines)]
    scores = {
        stage: {
            name: torch.cat([score_stage(recipe, stage)[name] for recipe in recipes])
            for name in (*TASKS, SELF)
        }
        for stage in stages
    }
    table = summary(scores)
    points = _mean_curves([curves(recipe, tuple(_ARMS)) for recipe in recipes])
    results: dict[str, Any] = {
        "normalised": {n: row["normalised"] for n, row in table.items() if "normalised" in row},
        "seconds": time.perf_counter() - began,
        "seeds": list(seeds),
        "workers": workers,
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
    write_text(output / "results.json", json.dumps(results, indent=1) + "\n")
    write_report(output / "report.html", results)
    return results


def _names(baselines: bool) -> tuple[str, ...]:
    return (*_ARMS, *(("offline", "averaged") if baselines else ()))


def _jobs(recipe: Recipe, baselines: bool) -> list[Job]:
    """Every stage of a seed and its scores; the long ones first where there is a choice."""
    taught = tuple(f"specialist-{task}" for task in TASKS)
    needs: dict[str, tuple[str, ...]] = {"student": ()} | dict.fromkeys(taught, ("student",))
    needs |= {stage: taught for stage in _names(baselines)} | {"ORM only": ("student",)}

    def name(stage: str) -> str:
        return f"seed {recipe.seed}: {stage}"

    return [
        *(Job(name(s), tuple(map(name, n)), _stage, (recipe, s)) for s, n in needs.items()),
        *(Job(name(f"score of {s}"), (name(s),), _score, (recipe, s)) for s in needs),
    ]


def _stage(recipe: Recipe, stage: str) -> None:
    with recipe.timed(stage):
        if stage in _ARMS:
            alpha, teachers = _ARMS[stage]
            recipe.distil(stage, alpha=alpha, teachers=teachers)
        elif stage.startswith("specialist-"):
            recipe.specialist(stage.removeprefix("specialist-"))
        else:
            {"student": recipe.student, "averaged": recipe.averaged, "offline": recipe.offline}[
                stage
            ]()


def _score(recipe: Recipe, stage: str) -> None:
    score_stage(recipe, stage)


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
