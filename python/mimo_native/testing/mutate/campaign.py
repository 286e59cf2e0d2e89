"""Run the cases of a subject against every mutant of its kernels."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..gpu import simulated_gpu
from ..ptxsim.module import interpreter
from ..ptxsim.report import CheckError
from .mutations import Mutation, apply, mutations
from .subjects import Case, Subject

__all__ = ["Outcome", "Result", "run"]

SCHEDULES = (("forward", 0), ("reverse", 0), ("random", 1))
LIMIT = 1 << 22  # instructions of a block; beyond, the mutant hangs


@dataclass(frozen=True)
class Outcome:
    """``noticed``: the reports' kinds, "wrong result" or the error's name; None: it survived."""

    mutation: Mutation
    noticed: str | None


@dataclass(frozen=True)
class Result:
    """Of one subject. ``unreached``: mutations of lines that no case executes."""

    subject: str
    outcomes: tuple[Outcome, ...]
    unreached: tuple[Mutation, ...]

    @property
    def survivors(self) -> list[Mutation]:
        return [outcome.mutation for outcome in self.outcomes if outcome.noticed is None]

    @property
    def rate(self) -> float:
        """Of the mutants that were run, the part that was noticed."""
        killed = sum(outcome.noticed is not None for outcome in self.outcomes)
        return killed / max(len(self.outcomes), 1)

    def __str__(self) -> str:
        lines = [
            f"{self.subject}: {len(self.outcomes)} mutants, {len(self.survivors)} survive "
            f"({self.rate:.1%} noticed), {len(self.unreached)} in lines that no case reaches"
        ]
        return "\n".join([*lines, *(f"  {mutation}" for mutation in self.survivors)])


def _noticed(cases: list[Case], capability: tuple[int, int]) -> str | None:
    for schedule, seed in SCHEDULES:
        for case in cases:
            with simulated_gpu(
                capability=capability, schedule=schedule, seed=seed, metrics=False,
                instruction_limit=LIMIT,
            ) as gpu:  # fmt: skip
                try:
                    case(gpu)
                except CheckError as error:
                    return ", ".join(sorted({report.kind for report in error.reports}))
                except AssertionError:
                    return "wrong result"
                except (ValueError, RuntimeError, IndexError) as error:
                    return type(error).__name__
    return None


def _reached(subject: Subject, capability: tuple[int, int]) -> list[dict[str, set[int]]]:
    """PTX lines that each case executes, by kernel; AssertionError if one fails unmutated."""
    found = []
    for case in subject.cases:
        lines: dict[str, set[int]] = {}
        with simulated_gpu(capability=capability, schedule="forward") as gpu:
            case(gpu)
        for launch in gpu.launches:
            if subject.only and not any(part in launch.kernel for part in subject.only):
                continue
            executed = {i.ptx_line for i in launch.stats.instructions if i.warps}
            lines.setdefault(launch.kernel, set()).update(executed)
        found.append(lines)
    return found


def _images(reached: list[dict[str, set[int]]]) -> Iterator[tuple[int, str, list[set[int]]]]:
    """(number, PTX, lines that each case executes) of the objects that hold these kernels."""
    for number, text in interpreter().gpu_images():
        inside = {kernel for case in reached for kernel in case if f".entry {kernel}(" in text}
        lines = [
            {line for kernel in inside & case.keys() for line in case[kernel]} for case in reached
        ]
        if inside:
            yield number, text, lines


def run(
    subject: Subject,
    *,
    capability: tuple[int, int] = (9, 0),
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[Outcome], None] | None = None,
) -> Result:
    """All mutants of the subject's kernels, or a random ``sample`` of them."""
    outcomes, unreached = [], []
    for number, text, lines in _images(_reached(subject, capability)):
        all_of_it, executed = mutations(text), set().union(*lines)
        unreached += [m for m in all_of_it if m.line not in executed]
        chosen = [m for m in all_of_it if m.line in executed]
        if sample is not None and sample < len(chosen):
            chosen = random.Random(seed).sample(chosen, sample)
        for mutation in chosen:
            # A case that does not come by the line cannot tell.
            pairs = zip(subject.cases, lines, strict=True)
            cases = [case for case, reached in pairs if mutation.line in reached]
            try:
                interpreter().gpu_substitute(number, apply(text, mutation))
                outcome = Outcome(mutation, _noticed(cases, capability))
            finally:
                interpreter().gpu_substitute(number, "")
            outcomes.append(outcome)
            if progress:
                progress(outcome)
    return Result(subject.name, tuple(outcomes), tuple(unreached))
