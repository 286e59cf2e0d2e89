"""The runs of the speedrun: a student, its specialists, and what is distilled from them."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...inference import Sampling, generate
from ...loading import load
from ...nn import MiMoForCausalLM
from ...pretrain.run import RunResult
from ...training.state import copy_tokenizer
from ...weights.resolve import resolve_model
from ..config import Domain, LossConfig, MopdConfig, ScoreConfig, SftConfig
from ..prompts import read_prompts
from ..run import run
from ..sft import sft
from .tasks import SELF, TASKS, write_tasks, write_text

__all__ = ["BY_REWARD", "WEIGHTS", "Recipe", "Size", "require_finished"]

BY_REWARD = ("reverse", "shift")  # these specialists come from GRPO, the others from clean answers
_BASE = "nano"
_NO_COST = {"seconds": 0.0, "cpu_seconds": 0.0}
_SECOND = 1000  # added to the seed of a second round, which sees the prompts in another order
_ANSWER, _TEXT = 12, 48  # tokens: digits and their end, and any line of the text
# Shares of the prompts in distillation: sort is the task that is learned most slowly, and text
# drifts with everything that is learned beside it.
WEIGHTS = {task: 2.0 if task == "sort" else 1.0 for task in TASKS} | {SELF: 4.0}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything: steps of each stage and prompts of each score."""

    student: int
    specialist: int
    reward: int
    distil: int
    train: int = 20_000
    heldout: int = 500
    curve_every: int = 5
    curve_prompts: int = 128
    rollouts: int = 256
    defect: float = 0.25


class Recipe:
    """Every stage writes into its own directory of ``output`` and goes on where it stopped."""

    def __init__(self, output: str | Path, size: Size, *, seed: int = 0, progress: bool = False):
        self.output, self.size, self.seed, self.progress = Path(output), size, seed, progress
        self.tasks = write_tasks(
            self.output / "tasks",
            train=size.train,
            heldout=size.heldout,
            defect=size.defect,
            seed=seed,
        )

    def model(self, stage: str) -> str:
        return str(self.output / stage / "final")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what is done inside to the seconds of ``stage``, unless it is finished already.

        Each stage has a file of its own: several may end at once, in as many processes.
        """
        finished = Path(self.model(stage)).exists()
        clock, work = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            path = self.output / stage / "cost.json"
            if not finished and path.parent.exists():
                cost = json.loads(path.read_text()) if path.exists() else _NO_COST
                spent = (time.perf_counter() - clock, time.process_time() - work)
                cost = {name: cost[name] + more for name, more in zip(_NO_COST, spent, strict=True)}
                write_text(path, json.dumps(cost) + "\n")

    def costs(self) -> dict[str, dict[str, float]]:
        """Of every stage that was run: elapsed seconds, and those of all processors."""
        files = sorted(self.output.glob("*/cost.json"), key=lambda path: path.stat().st_mtime_ns)
        return {path.parent.name: json.loads(path.read_text()) for path in files}

    # ------------------------------------------------------------------ stages

    def student(self) -> None:
        """nano, taught every task with its defect, and its own text beside."""
        domains = {task: self._domain(task, ".defect") for task in TASKS}
        domains[SELF] = replace(self._domain(SELF), weight=0.5)
        self._sft("student", resolve_model(_BASE), domains, self.size.student)

    def specialist(self, task: str) -> None:
        """The student, better at one task: by rewards or by clean answers."""
        stage = f"specialist-{task}"
        if task in BY_REWARD:
            domains = {task: replace(self._domain(task), reward="exact")}
            self._policy(stage, domains, LossConfig(alpha=1.0), group=8, steps=self.size.reward)
        else:
            domains = {task: self._domain(task)}
            self._sft(stage, self.model("student"), domains, self.size.specialist)

    def distil(self, stage: str, *, alpha: float, teachers: bool = True) -> None:
        """The student taught by all specialists, by rewards, or by both."""
        domains = {
            task: replace(self._weighted(task), teacher=task if teachers else None)
            for task in TASKS
        }
        if teachers:
            domains[SELF] = replace(self._weighted(SELF), teacher="self")
        group = 1 if alpha == 0 else (2 if teachers else 8)
        self._policy(
            stage,
            domains,
            LossConfig(alpha=alpha, form="full"),
            group=group,
            steps=self.size.distil,
            teachers={task: self.model(f"specialist-{task}") for task in TASKS} if teachers else {},
            longest=_TEXT if teachers else _ANSWER,
            mtp_weight=0.1 if teachers else 0.0,
            curve=True,
        )

    def _weighted(self, name: str, home: Path | None = None) -> Domain:
        return replace(self._domain(name, home=home), weight=WEIGHTS[name])

    def second_round(self) -> None:
        """Teacher iteration: the distilled student becomes specialists by rewards, and is taught by
        them; its text is kept as it was after the first round.
        """
        start = self.model("mopd")
        for task in TASKS:
            self._policy(
                f"second-{task}",
                {task: self._domain(task)},
                LossConfig(alpha=1.0),
                group=8,
                steps=self.size.reward,
                start=start,
            )
        domains = {task: replace(self._weighted(task), teacher=task) for task in TASKS}
        self._policy(
            "second",
            domains | {SELF: replace(self._weighted(SELF), teacher="self")},
            LossConfig(form="full"),
            group=1,
            steps=self.size.distil // 2,
            teachers={task: self.model(f"second-{task}") for task in TASKS},
            longest=_TEXT,
            start=start,
        )

    # ------------------------------------------------------------------ what it is compared with

    def averaged(self) -> None:
        """The mean of the specialists' parameters."""
        path = Path(self.model("averaged"))
        if path.exists():
            return
        models = [
            MiMoForCausalLM.from_pretrained(
                self.model(f"specialist-{task}"), dtype=torch.bfloat16
            ).unpack()
            for task in TASKS
        ]
        with torch.no_grad():
            for mine, *others in zip(*(m.parameters() for m in models), strict=True):
                total = mine.float()
                for other in others:
                    total += other.float()
                mine.copy_(total / len(models))
        models[0].save_pretrained(path)
        copy_tokenizer(self.model("student"), path)

    def offline(self) -> None:
        """The student fine-tuned on the specialists' own samples, as many as distillation draws
        and in the same mixture; the text is the documents'."""
        directory, draws = self.output / "samples", self.size.distil * self.size.rollouts
        for task in TASKS:
            count = math.ceil(draws * WEIGHTS[task] / sum(WEIGHTS.values()))
            self._sample(task, directory / f"{task}.jsonl", count)
        domains = {task: self._weighted(task, directory) for task in TASKS}
        domains[SELF] = self._weighted(SELF)
        steps, each = self.size.distil, self.size.rollouts
        self._sft("offline", self.model("student"), domains, steps, each=each)

    def _sample(self, task: str, path: Path, count: int) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        model, tokenizer = load(self.model(f"specialist-{task}"))
        vocab = model.config.vocab_size
        prompts = read_prompts(task, self.tasks / f"{task}.jsonl", tokenizer, vocab)[:count]
        done = generate(
            model,
            [prompt.ids for prompt in prompts],
            sampling=[Sampling(max_tokens=_ANSWER, seed=i) for i in range(len(prompts))],
            max_batch=64,
        )
        rows = [
            {"prompt": prompt.text, "answer": completion.text}
            for prompt, completion in zip(prompts, done, strict=True)
            if completion.text
        ]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

    # ------------------------------------------------------------------ runs

    def _domain(self, name: str, part: str = "", home: Path | None = None) -> Domain:
        return Domain(
            prompts=str((home or self.tasks) / f"{name}{part}.jsonl"),
            heldout=str(self.tasks / f"{name}.heldout.jsonl"),
            reward=None if name == SELF else "exact",
        )

    def _sft(
        self,
        stage: str,
        init: str | Path,
        domains: Mapping[str, Domain],
        steps: int,
        *,
        each: int = 128,
    ) -> None:
        result = sft(
            SftConfig(
                output=str(self.output / stage),
                init=str(init),
                domains=domains,
                steps=steps,
                prompts_per_step=each,
                lr=2e-3 if stage == "student" else 5e-4,
                warmup=10,
                cooldown=steps // 4,
                max_new_tokens=_ANSWER,
                seed=self.seed,
                score=ScoreConfig(prompts=self.size.curve_prompts),
            ),
            progress=self.progress,
        )
        require_finished(result)

    def _policy(
        self,
        stage: str,
        domains: Mapping[str, Domain],
        loss: LossConfig,
        *,
        group: int,
        steps: int,
        teachers: Mapping[str, str] | None = None,
        longest: int = _ANSWER,
        mtp_weight: float = 0.0,
        curve: bool = False,
        start: str | None = None,
    ) -> None:
        result = run(
            MopdConfig(
                output=str(self.output / stage),
                init=start or self.model("student"),
                domains=domains,
                teachers=teachers or {},
                loss=loss,
                steps=steps,
                prompts_per_step=self.size.rollouts // group,
                rollouts_per_prompt=group,
                max_new_tokens=longest,
                lr=5e-4,
                warmup=2,
                cooldown=2 * steps // 3 if curve else steps // 3,
                mtp_weight=mtp_weight,
                seed=self.seed + (_SECOND if start else 0),
                score=ScoreConfig(
                    every=self.size.curve_every if curve else 0, prompts=self.size.curve_prompts
                ),
            ),
            progress=self.progress,
        )
        require_finished(result)


def require_finished(result: RunResult) -> None:
    """What follows needs this stage: a run that was asked to stop has saved, and ends here."""
    if result.status == "stopped":
        raise KeyboardInterrupt
