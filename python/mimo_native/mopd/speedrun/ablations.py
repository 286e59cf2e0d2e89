"""One change at a time to distillation, paired over seeds.

    python -m mimo_native.mopd.speedrun.ablations runs/speedrun --seeds 3

Needs the students and specialists of a speedrun with as many seeds, and leaves ablations.json
beside them. A variant is "not resolved" where the interval of its paired difference over seeds
holds 0. The interval over prompts is of these runs alone: another seed may differ by more.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Domain, LossConfig, MopdConfig, ScoreConfig
from ..run import run
from .recipe import Recipe, Size, require_finished
from .study import INTERVAL, error, mean, score_stage
from .tasks import TASKS

__all__ = ["VARIANTS", "ablate", "paired"]

# What each variant changes in the base: the sampled form, alpha 0, one rollout per prompt.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "alpha 0.1, 4 rollouts": {"alpha": 0.1, "group": 4},
    "alpha 0.5, 4 rollouts": {"alpha": 0.5, "group": 4},
    "4 rollouts": {"group": 4},
    "full vocabulary": {"form": "full"},
    "top 8, mass": {"form": "top_k", "top_k": 8},
    "top 8, tail": {"form": "top_k", "top_k": 8, "correction": "tail"},
    "no clip": {"advantage_clip": None},
    "token mean": {"normalise": "token"},
    "int8 sampler": {"rollout_format": "int8_row"},
    "int8 sampler, no band": {"rollout_format": "int8_row", "mismatch": "none"},
    "int8 sampler, no replay": {"rollout_format": "int8_row", "replay": False},
    "foreign teachers": {"foreign": True},
}
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def paired(values: list[float], base: list[float]) -> dict[str, Any]:
    """Mean difference over seeds with its 95 % interval (Student's t)."""
    differences = [a - b for a, b in zip(values, base, strict=True)]
    count, centre = len(differences), sum(differences) / len(differences)
    spread = math.sqrt(sum((d - centre) ** 2 for d in differences) / max(count - 1, 1))
    half = _T.get(count - 1, 1.96) * spread / math.sqrt(count) if count > 1 else math.inf
    return {"difference": centre, "interval": half, "resolved": abs(centre) > half}


def ablate(
    output: str | Path, seeds: int, *, steps: int = 40, prompts: int = 500, size: Size
) -> dict[str, Any]:
    """Every variant for every seed, ``steps`` steps each, scored on ``prompts`` of each task;
    continues where it stopped. What is known so far is in ablations.json at any time.
    """
    recipes = [Recipe(Path(output) / f"seed-{s}", size, seed=s) for s in range(seeds)]
    shares: dict[str, list[Tensor]] = {name: [] for name in VARIANTS}
    mismatch: dict[str, list[float]] = {name: [] for name in VARIANTS}
    rows: dict[str, Any] = {}
    for i, recipe in enumerate(recipes):
        other = recipes[(i + 1) % seeds]
        for name, change in VARIANTS.items():
            stage = f"ablation-{name.replace(' ', '-').replace(',', '')}"
            print(f"seed {i}: {name}", file=sys.stderr, flush=True)
            mismatch[name].append(_one(recipe, other, stage, dict(change), steps))
            shares[name].append(_share(recipe, stage, prompts))
            rows[name] = _row(shares[name], shares["base"], mismatch[name])
            (Path(output) / "ablations.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def _row(shares: list[Tensor], base: list[Tensor], mismatch: list[float]) -> dict[str, Any]:
    """shares and base: of every seed, by prompt. Of one seed there is no interval over seeds."""
    seeds = len(shares)
    base = base[:seeds]
    errors = [error(a - b) for a, b in zip(shares, base, strict=True)]
    row = paired([mean(v) for v in shares], [mean(v) for v in base])
    if seeds == 1:
        row["interval"] = None
    return {
        "seeds": seeds,
        "normalised": sum(map(mean, shares)) / seeds,
        "mismatch": sum(mismatch) / seeds,
        "over_prompts": INTERVAL * math.hypot(*errors) / seeds,
        **row,
    }


def _one(recipe: Recipe, other: Recipe, stage: str, change: dict[str, Any], steps: int) -> float:
    """Run one variant; the mean |log pi - log mu| of its steps."""
    from ...training.metrics import read_metrics

    group, source = change.pop("group", 1), other if change.pop("foreign", False) else recipe
    outer = {name: change.pop(name) for name in ("rollout_format", "replay") if name in change}
    domains = {
        task: Domain(prompts=str(recipe.tasks / f"{task}.jsonl"), teacher=task, reward="exact")
        for task in TASKS
    }
    config = MopdConfig(
        output=str(recipe.output / stage),
        init=recipe.model("student"),
        domains=domains,
        teachers={task: source.model(f"specialist-{task}") for task in TASKS},
        loss=replace(LossConfig(), **change),
        steps=steps,
        prompts_per_step=recipe.size.rollouts // group,
        rollouts_per_prompt=group,
        max_new_tokens=12,
        lr=5e-4,
        warmup=2,
        cooldown=steps // 3,
        seed=recipe.seed,
        score=ScoreConfig(),
        **outer,
    )
    require_finished(run(config))
    values = [line["mismatch"] for line in read_metrics(config.output, "step")]
    return sum(values) / len(values)


def _share(recipe: Recipe, stage: str, prompts: int) -> Tensor:
    """Normalised scores by prompt, averaged over the tasks whose teacher is better."""
    before, after, *taught = (
        score_stage(recipe, name, names=tuple(TASKS), limit=prompts)
        for name in ("student", stage, *(f"specialist-{task}" for task in TASKS))
    )
    known = []
    for task, teacher in zip(TASKS, taught, strict=True):
        low, high = mean(before[task]), mean(teacher[task])
        if high > low:
            known.append((after[task] - low) / (high - low))
    return torch.stack(known).mean(0)


def main() -> None:
    from . import FULL

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", help="directory of a speedrun")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=500, help="scored of each task")
    parser.add_argument("--heldout", type=int, default=FULL.heldout, help="that the speedrun had")
    args = parser.parse_args()
    size = replace(FULL, heldout=args.heldout)
    rows = ablate(args.output, args.seeds, steps=args.steps, prompts=args.prompts, size=size)
    print(f"{'variant':26} normalised   difference over seeds, prompts       mismatch")
    for name, row in rows.items():
        over = "  -  " if row["interval"] is None else f"{row['interval']:.3f}"
        verdict = "" if row["resolved"] else "not resolved"
        print(
            f"{name:26} {row['normalised']:6.3f}   {row['difference']:+.3f} ± {over}, "
            f"{row['over_prompts']:.3f}   {row['mismatch']:.5f}   {verdict}"
        )


if __name__ == "__main__":
    main()
