"""The runs: two specialists of SmolLM2 by adapters, and a student taught by both and by itself."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...inference import Sampling, generate
from ...loading import load
from ...pretrain.config import SaveConfig
from ...pretrain.nano.corpora import DOMAINS as TEXTS
from ...training.lora import LoRAConfig
from ..config import Domain, LossConfig, MopdConfig, ScoreConfig, SftConfig
from ..prompts import read_prompts
from ..run import run
from ..sft import sft
from ..speedrun.recipe import require_finished
from ..speedrun.tasks import write_text
from .tasks import SELF, TASKS, write_tasks

__all__ = ["ANSWER", "PROSE", "REWARDS", "Recipe", "Size"]

REWARDS = {"sums": "arithmetic", "words": "exact"}
PROSE = "prose"  # is scored, but no stage trains on it
ANSWER = 24  # tokens that a task's answer may take
_REPLY = 32  # tokens of the model's own replies
_PIECE, _BEGINNING = 64, 16  # tokens of a piece of prose, of which so many are its prompt
_LORA = LoRAConfig(rank=16, alpha=32.0)
_RATE = 1e-3  # of the specialists
_DISTIL_RATE = 4e-4


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything: steps and prompts a step of both stages, prompts of each domain.

    scored: of the held-out ones at the end; the runs themselves score ``curve_prompts``.
    """

    specialist: int = 100
    specialist_prompts: int = 64
    distil: int = 100
    distil_prompts: int = 72
    train: int = 4_000
    heldout: int = 1_000
    scored: int = 1_000
    replies: int = 320
    curve_every: int = 10
    curve_prompts: int = 100


class Recipe:
    """Every stage writes into its own directory of ``output`` and goes on where it stopped.

    base: a checkpoint with its tokenizer, which the student and the specialists start from.
    """

    def __init__(
        self,
        output: str | Path,
        size: Size | None = None,
        *,
        base: str = "smollm2",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.output, self.size, self.base = Path(output), size or Size(), base
        self.seed, self.progress = seed, progress
        self.tasks = write_tasks(
            self.output / "tasks", train=self.size.train, heldout=self.size.heldout, seed=seed
        )

    def model(self, stage: str) -> str:
        return self.base if stage == "student" else str(self.output / stage / "final")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what is done inside to the seconds of ``stage``, interrupted or not."""
        clock, work = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            costs = self.costs()
            cost = costs.setdefault(stage, {"seconds": 0.0, "cpu_seconds": 0.0})
            cost["seconds"] += time.perf_counter() - clock
            cost["cpu_seconds"] += time.process_time() - work
            write_text(self.output / "costs.json", json.dumps(costs, indent=1) + "\n")

    def costs(self) -> dict[str, dict[str, float]]:
        """By stage: elapsed seconds, and those of all processors."""
        path = self.output / "costs.json"
        return json.loads(path.read_text()) if path.exists() else {}

    # ------------------------------------------------------------------ stages

    def texts(self) -> None:
        """What the self domain is measured on: the base's own replies, as tokens, and prose."""
        replies, prose = (self.tasks / f"{name}.heldout.jsonl" for name in (SELF, PROSE))
        model, tokenizer = load(self.base)
        asked = read_prompts(
            SELF, self.tasks / f"{SELF}.asked.jsonl", tokenizer, model.config.vocab_size
        )
        prompts = [asked[i % len(asked)].ids for i in range(self.size.replies)]
        sampling = [
            Sampling(max_tokens=_REPLY, seed=(self.seed << 40) + i) for i in range(len(prompts))
        ]
        done = generate(model, prompts, sampling=sampling, max_batch=64)
        _write(replies, [(p, d.token_ids) for p, d in zip(prompts, done, strict=True)])
        pieces = []
        for text in TEXTS[PROSE][0](random.Random(f"{PROSE} {self.seed}")):
            ids = tokenizer.encode(text)[:_PIECE]
            if len(ids) == _PIECE:
                pieces.append((ids[:_BEGINNING], ids[_BEGINNING:]))
            if len(pieces) == self.size.replies:
                break
        _write(prose, pieces)

    def specialist(self, task: str) -> None:
        """The base, taught the right answers of one task."""
        size = self.size
        config = SftConfig(
            **self._common(f"specialist-{task}", {task: self.domain(task)}, _RATE),
            steps=size.specialist,
            prompts_per_step=size.specialist_prompts,
            max_new_tokens=ANSWER,
            cooldown=size.specialist // 2,
        )
        require_finished(sft(config, progress=self.progress))

    def distil(self, stage: str, loss: LossConfig) -> None:
        """The base, taught by both specialists on their tasks and by itself on requests."""
        size = self.size
        domains = {task: self.domain(task, teacher=task) for task in TASKS}
        domains[SELF] = self.domain(SELF, teacher="self")
        config = MopdConfig(
            **self._common(stage, domains, _DISTIL_RATE),
            # The adapters alone: each teacher is the base with one of them added.
            teachers={task: f"{self.model(f'specialist-{task}')}-adapter" for task in TASKS},
            loss=loss,
            steps=size.distil,
            prompts_per_step=size.distil_prompts,
            max_new_tokens=_REPLY,
            cooldown=2 * size.distil // 3,
        )
        require_finished(run(config, progress=self.progress))

    def domain(self, name: str, *, teacher: str | None = None) -> Domain:
        return Domain(
            prompts=str(self.tasks / f"{name}.jsonl"),
            heldout=str(self.tasks / f"{name}.heldout.jsonl"),
            reward=REWARDS.get(name),
            teacher=teacher,
        )

    def _common(self, stage: str, domains: Mapping[str, Domain], rate: float) -> dict[str, Any]:
        size = self.size
        return {
            "output": str(self.output / stage),
            "init": self.base,
            "domains": domains,
            "lr": rate,
            "warmup": 10,
            "lora": _LORA,
            "micro_tokens": 4096,
            "seed": self.seed,
            "save": SaveConfig(every=size.curve_every, keep=1),
            "score": ScoreConfig(every=size.curve_every, prompts=size.curve_prompts),
        }


def _write(path: Path, rows: list[tuple[Any, Any]]) -> None:
    lines = [json.dumps({"prompt": list(p), "answer": list(a)}) + "\n" for p, a in rows]
    write_text(path, "".join(lines))
