"""What the runs came to: scores with intervals, tokens, costs, and the curves as a picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...loading import load
from ...training.metrics import read_metrics
from ...training.plot import canvas, save_figure
from ..evaluate import answer_logprobs, verified
from ..prompts import read_prompts
from ..rewards import resolve_reward
from ..speedrun.study import INTERVAL, error, mean, normalised
from ..speedrun.tasks import write_text
from .recipe import ANSWER, PROSE, REWARDS, Recipe
from .tasks import SELF, TASKS

__all__ = ["curves", "draw", "score_stage", "table", "tokens"]

GREEDY = " greedy"


def score_stage(recipe: Recipe, stage: str) -> dict[str, Tensor]:
    """Of every held-out prompt, float64 [prompts], by what is measured: 1 for a right answer, at
    temperature 1 and greedy; the mean log-probability of a token of the base's own replies and of
    prose. Kept in scores.json of the stage.
    """
    path = recipe.output / stage / "scores.json"
    if not path.exists():
        model, tokenizer = load(recipe.model(stage))
        values: dict[str, list[float]] = {}
        for name in (*TASKS, SELF, PROSE):
            file = recipe.tasks / f"{name}.heldout.jsonl"
            prompts = read_prompts(name, file, tokenizer, model.config.vocab_size)
            prompts = prompts[: recipe.size.scored]
            if name not in TASKS:
                values[name] = answer_logprobs(model, prompts).tolist()
                continue
            reward = resolve_reward(REWARDS[name], {})
            for temperature, label in ((1.0, name), (0.0, name + GREEDY)):
                chosen = prompts if temperature else prompts[: len(prompts) // 2]
                values[label] = verified(
                    model,
                    chosen,
                    reward,
                    max_new_tokens=ANSWER,
                    temperature=temperature,
                    seed=recipe.seed + 1,
                ).tolist()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(values) + "\n")
    content = json.loads(path.read_text())
    return {name: torch.tensor(own, dtype=torch.float64) for name, own in content.items()}


def table(scores: Mapping[str, Mapping[str, Tensor]], stage: str) -> dict[str, dict[str, Any]]:
    """By domain: student, teacher, ``stage``, all with 95 % intervals, the paired difference of the
    last to the teacher, and for tasks the normalised score, 0 the student and 1 the teacher.

    scores: of "student", "specialist-TASK" and ``stage``. Chat and prose are taught by the student.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in (*TASKS, *(task + GREEDY for task in TASKS), SELF, PROSE):
        task = name.removesuffix(GREEDY)
        before, after = scores["student"][name], scores[stage][name]
        teacher = scores[f"specialist-{task}"][name] if task in TASKS else before
        shown = {"student": before, "teacher": teacher, "after": after}
        row: dict[str, Any] = {label: mean(x) for label, x in shown.items()}
        row["intervals"] = {label: INTERVAL * error(x) for label, x in shown.items()}
        row["difference"] = mean(after - teacher)
        row["paired_error"] = error(after - teacher)
        row["prompts"] = len(after)
        if task in TASKS:
            row["normalised"] = normalised(row["student"], row["teacher"], row["after"])
        else:
            row["within_two_errors"] = abs(row["difference"]) <= 2 * row["paired_error"]
            row["specialists"] = {
                other: mean(scores[f"specialist-{other}"][name] - before) for other in TASKS
            }
        rows[name] = row
    return rows


def tokens(recipe: Recipe, stages: list[str]) -> dict[str, dict[str, int]]:
    """By stage: steps, and tokens of the answers and rollouts that were learned from."""
    found = {stage: read_metrics(recipe.output / stage, "step") for stage in stages}
    return {
        stage: {"steps": len(lines), "tokens": sum(line["tokens"] for line in lines)}
        for stage, lines in found.items()
    }


def curves(
    recipe: Recipe, stages: list[str], student: Mapping[str, Tensor]
) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    """{domain: {stage: [(rollouts, score, standard error)]}}; the first is the student's, on the
    prompts that the runs score.
    """
    each, first = recipe.size.distil_prompts, recipe.size.curve_prompts
    result: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for name in (*TASKS, SELF):
        start = student[name][:first]
        for stage in stages:
            points = [(0, mean(start), error(start))]
            for line in read_metrics(recipe.output / stage, "score"):
                own = line["domains"][name]
                points.append((line["step"] * each, own["score"], own["error"]))
            result.setdefault(name, {})[stage] = points
    return result


def draw(results: Mapping[str, Any], target: str | Path) -> Path:
    """The curves with the teachers' lines. Raises UnsupportedError without matplotlib."""
    figure = canvas(12, 3.2)
    for axis, (name, stages) in zip(figure.subplots(1, 3), results["curves"].items(), strict=True):
        for stage, points in stages.items():
            x, y, errors = zip(*points, strict=True)
            axis.errorbar(x, y, [INTERVAL * e for e in errors], label=stage, capsize=2, linewidth=1)
        row = results["table"][name]
        axis.axhline(row["teacher"], color="grey", linestyle="--", linewidth=1)
        kind = "the student itself" if name == SELF else "its specialist"
        axis.set_title(f"{name}, taught by {kind}", loc="left", fontsize="medium")
        axis.set_xlabel("rollouts")
        axis.set_ylabel("log-probability of a token" if name == SELF else "right answers")
        axis.legend(fontsize="small")
    return save_figure(figure, Path(target))
