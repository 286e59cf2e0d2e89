"""What the runs of a speedrun came to: scores with intervals, curves, acceptance, and a summary."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...inference import Sampling, generate
from ...loading import load
from ...nn import MiMoForCausalLM
from ...training.metrics import read_metrics
from ..evaluate import answer_logprobs, verified
from ..prompts import Prompt, read_prompts
from ..rewards import exact
from .recipe import BY_REWARD, Recipe
from .tasks import SELF, TASKS, write_text

__all__ = ["Scores", "acceptance", "curves", "normalised", "score_stage", "summary"]

Scores = dict[str, dict[str, Any]]
INTERVAL = 1.96  # standard errors on either side, 95 %


def score_stage(
    recipe: Recipe, stage: str, *, names: Sequence[str] = (*TASKS, SELF), limit: int | None = None
) -> dict[str, Tensor]:
    """Every held-out prompt's score by domain, float64 [prompts]: 1 for a right sample at
    temperature 1, or the text's mean log-probability per token. Kept in scores.json of the stage.

    limit: that many prompts of a domain at most, the first ones.
    """
    path = recipe.output / stage / "scores.json"
    if not path.exists():
        model, tokenizer = load(recipe.model(stage))
        values: dict[str, list[float]] = {}
        for name in names:
            file = recipe.tasks / f"{name}.heldout.jsonl"
            prompts = read_prompts(name, file, tokenizer, model.config.vocab_size)[:limit]
            values[name] = _score(model, name, prompts, recipe.seed).tolist()
        write_text(path, json.dumps(values) + "\n")
    content = json.loads(path.read_text())
    return {name: torch.tensor(content[name][:limit], dtype=torch.float64) for name in names}


def _score(model: MiMoForCausalLM, name: str, prompts: Sequence[Prompt], seed: int) -> Tensor:
    if name == SELF:
        return answer_logprobs(model, prompts)
    return verified(model, prompts, exact, max_new_tokens=12, seed=seed + 1)


def normalised(student: float, teacher: float, after: float) -> float | None:
    """0 is the student, 1 its best teacher; None where that is no better than the student."""
    return (after - student) / (teacher - student) if teacher > student else None


def summary(scores: Mapping[str, Mapping[str, Tensor]], stage: str = "mopd") -> Scores:
    """The rows of the table: student, best teacher, after, difference, by domain.

    scores: of "student", "specialist-TASK" and ``stage``. The text domain's teacher is the student.
    """
    rows: Scores = {}
    for name in (*TASKS, SELF):
        before, after = scores["student"][name], scores[stage][name]
        teacher = before if name == SELF else scores[f"specialist-{name}"][name]
        paired = after - before
        row: dict[str, Any] = {
            "student": mean(before),
            "teacher": mean(teacher),
            "kind": "self" if name == SELF else ("RL" if name in BY_REWARD else "SFT"),
            "after": mean(after),
            "difference": mean(after - teacher),
            "interval": INTERVAL * error(after - teacher),
            "prompts": len(after),
        }
        if name == SELF:
            row["paired_error"] = error(paired)
            row["within_two_errors"] = abs(mean(paired)) <= 2 * error(paired)
        else:
            row["normalised"] = normalised(row["student"], row["teacher"], row["after"])
        rows[name] = row
    return rows


def mean(values: Tensor) -> float:
    return float(values.mean())


def error(values: Tensor) -> float:
    """Standard error of the mean."""
    return float(values.std(correction=1)) / math.sqrt(len(values))


def curves(recipe: Recipe, stages: Sequence[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """{domain: {stage: [(rollouts, score)]}} along the runs, step 0 being the student."""
    result: dict[str, dict[str, list[tuple[int, float]]]] = {}
    start = score_stage(recipe, "student")
    for stage in stages:
        for line in read_metrics(recipe.output / stage, "score"):
            for name, own in line["domains"].items():
                points = result.setdefault(name, {}).setdefault(stage, [(0, mean(start[name]))])
                points.append((line["step"] * recipe.size.rollouts, own["score"]))
    return result


def rollouts_to(points: Sequence[tuple[int, float]], goal: float) -> int | None:
    """The first point of a curve that reaches ``goal``."""
    return next((x for x, y in points if y >= goal), None)


def acceptance(model_path: str | Path, prompts: Mapping[str, Sequence[Prompt]]) -> Scores:
    """Plain against chain drafting by domain: accept length, entropy, seconds, and whether the
    tokens are the same."""
    model, _ = load(model_path)
    rows: Scores = {}
    for name, own in prompts.items():
        sampling = [Sampling(max_tokens=64, seed=i, logprobs=True) for i in range(len(own))]
        ids = [prompt.ids for prompt in own]
        plain = generate(model, ids, sampling=sampling, max_batch=1)
        drafted = generate(model, ids, sampling=sampling, max_batch=1, speculative="chain")
        tokens = sum(len(done.token_ids) for done in plain)
        passes = sum(done.stats.decode_passes for done in drafted)
        seconds = [sum(done.stats.decode_time for done in runs) for runs in (plain, drafted)]
        surprise = -sum(sum(done.logprobs or ()) for done in plain) / tokens
        rows[name] = {
            "nats": surprise,
            "accept_length": (tokens - len(own)) / max(passes, 1),
            "plain_tokens_per_second": (tokens - len(own)) / seconds[0],
            "tokens_per_second": (tokens - len(own)) / seconds[1],
            "identical": all(
                a.token_ids == b.token_ids for a, b in zip(plain, drafted, strict=True)
            ),
        }
    return rows
