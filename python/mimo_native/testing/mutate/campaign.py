"""Run the cases of a subject against every mutant of its kernels."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..gpu import simulated_gpu
from ..ptxsim.module import interpreter
from ..ptxsim.report import CheckError
from .arguments import ARGUMENTS, Argument
from .mutations import Mutation, apply, mutations
from .ptx import Kernel, Ptx
from .record import Record
from .result import Outcome, Result
from .subjects import Case, Subject, label

__all__ = ["run"]

SCHEDULES = (("forward", 0), ("reverse", 0), ("random", 1))
NEIGHBOURS = 4  # cases that noticed the last mutants are tried first


@dataclass(frozen=True)
class _Trial:
    """A case with what is known of it unmutated: its executed lines, and its length.

    ``limit``: a block that executes more instructions than this hangs.
    """

    label: str
    case: Case
    lines: dict[str, frozenset[int]]  # of the PTX, by kernel
    cost: int
    limit: int

    def reaches(self, kernel: Kernel, line: int) -> bool:
        return any(line in self.lines.get(entry, ()) for entry in kernel.entries)


def _trial(subject: Subject, case: Case, capability: tuple[int, int]) -> _Trial:
    """AssertionError if the case fails unmutated."""
    lines: dict[str, set[int]] = {}
    cost, longest = 0, 0
    with simulated_gpu(capability=capability, schedule="forward") as gpu:
        case(gpu)
    for launch in gpu.launches:
        executed = [i for i in launch.stats.instructions if i.warps]
        length = sum(i.warps for i in executed)
        cost, longest = cost + length, max(longest, length)
        if not subject.only or any(part in launch.kernel for part in subject.only):
            lines.setdefault(launch.kernel, set()).update(i.ptx_line for i in executed)
    frozen = {kernel: frozenset(found) for kernel, found in lines.items()}
    return _Trial(label(case), case, frozen, cost, 16 * longest + 65536)


def _noticed(trial: _Trial, capability: tuple[int, int], schedule: tuple[str, int]) -> str | None:
    with simulated_gpu(
        capability=capability, schedule=schedule[0], seed=schedule[1], metrics=False,
        instruction_limit=trial.limit,
    ) as gpu:  # fmt: skip
        try:
            trial.case(gpu)
        except CheckError as error:
            return ", ".join(sorted({report.kind for report in error.reports}))
        except AssertionError:
            return "wrong result"
        except (ValueError, RuntimeError, IndexError) as error:
            return type(error).__name__
    return None


class _Order:
    """Which pair of case and schedule is tried first: of the neighbours', then the cheapest."""

    def __init__(self) -> None:
        self._recent: list[tuple[str, tuple[str, int]]] = []

    def pairs(
        self, trials: list[_Trial], schedules: Sequence[tuple[str, int]]
    ) -> Iterator[tuple[_Trial, tuple[str, int]]]:
        by_label = {trial.label: trial for trial in trials}
        first = [pair for pair in self._recent if pair[0] in by_label and pair[1] in schedules]
        for name, schedule in first:
            yield by_label[name], schedule
        for schedule in schedules:
            for trial in sorted(trials, key=lambda t: t.cost):
                if (trial.label, schedule) not in first:
                    yield trial, schedule

    def noticed_by(self, trial: _Trial, schedule: tuple[str, int]) -> None:
        pair = (trial.label, schedule)
        others = [other for other in self._recent if other != pair]
        self._recent = [pair, *others[: NEIGHBOURS - 1]]


def _argue(ptx: Ptx, mutation: Mutation) -> Argument | None:
    return next((a for a in ARGUMENTS if a.covers(ptx, mutation)), None)


class _Campaign:
    def __init__(
        self, subject: Subject, capability: tuple[int, int], record: Record, *, forward: bool
    ) -> None:
        self.subject, self.capability, self.record = subject, capability, record
        self.forward = forward
        self.trials = [_trial(subject, case, capability) for case in subject.cases]
        self.order = _Order()

    def images(self) -> Iterator[tuple[int, Ptx, set[str]]]:
        """(number, PTX, names of the subject's kernels) of the objects that hold any."""
        launched = {kernel for trial in self.trials for kernel in trial.lines}
        for number, text in interpreter().gpu_images():
            ptx = Ptx(text)
            if any(kernel.name in launched for kernel in ptx.kernels):
                only = self.subject.only
                entries = {entry for kernel in ptx.kernels for entry in kernel.entries}
                named = {e for e in entries if not only or any(part in e for part in only)}
                names = {kernel.name for kernel in ptx.kernels if kernel.entries & named}
                yield number, ptx, names

    def outcome(self, number: int, ptx: Ptx, kernel: Kernel, mutation: Mutation) -> Outcome:
        """From the record as far as it goes, else by running what it has not tried."""
        # A case that does not come by the line cannot tell.
        trials = [trial for trial in self.trials if trial.reaches(kernel, mutation.line)]
        labels = {trial.label for trial in trials}
        known = self.record.known(kernel, mutation)
        if known and known[0] is not None and known[1] in labels:
            return Outcome(mutation, kernel, known[0], known[1])
        if known and known[0] is None:
            trials = [trial for trial in trials if trial.label not in known[2]]
        noticed, by = None, None
        try:
            if trials:
                interpreter().gpu_substitute(number, apply(ptx.text, mutation))
            short = self.forward and not mutation.orders
            schedules = SCHEDULES[:1] if short else SCHEDULES
            for trial, schedule in self.order.pairs(trials, schedules):
                if noticed := _noticed(trial, self.capability, schedule):
                    by = trial.label
                    self.order.noticed_by(trial, schedule)
                    break
        finally:
            interpreter().gpu_substitute(number, "")
        if trials or not known:
            tried = self.record.cases(labels)
            self.record.add(self.subject.name, kernel, mutation, noticed, by, tried)
        return Outcome(mutation, kernel, noticed, by, None if noticed else _argue(ptx, mutation))

    def check(self) -> None:
        """RuntimeError if a case fails although no mutant runs any more: what is known is wrong."""
        for trial in self.trials:
            if found := _noticed(trial, self.capability, SCHEDULES[0]):
                raise RuntimeError(f"{trial.label} fails unmutated: {found}")


def run(
    subject: Subject,
    *,
    capability: tuple[int, int] | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[Outcome], None] | None = None,
    record: Path | None = None,
    forward: bool = False,
) -> Result:
    """All mutants of the subject's kernels, or a random ``sample`` of them.

    capability: of the simulated device, instead of the subject's own.
    record: a file of JSON lines, to which outcomes are appended as they come; what it knows is not
    run again. A mutant that survived there meets only the cases that are new.
    forward: changes of what is computed, predicates and bounds, meet the forward schedule alone;
    changes of the order, barriers and waits say, meet all three.
    """
    campaign = _Campaign(subject, capability or subject.capability, Record(record), forward=forward)
    outcomes: list[Outcome] = []
    unreached: list[Outcome] = []
    for number, ptx, names in campaign.images():
        reached = []
        for mutation in mutations(ptx.text):
            kernel = ptx.kernel_of(mutation.line)
            if kernel is None or kernel.name not in names:
                continue
            if any(trial.reaches(kernel, mutation.line) for trial in campaign.trials):
                reached.append((kernel, mutation))
            else:
                argument = _argue(ptx, mutation)
                unreached.append(Outcome(mutation, kernel, argument=argument))
        if sample is not None and sample < len(reached):
            reached = random.Random(seed).sample(reached, sample)
        for kernel, mutation in reached:
            outcomes.append(campaign.outcome(number, ptx, kernel, mutation))
            if progress:
                progress(outcomes[-1])
    campaign.check()
    return Result(subject.name, tuple(outcomes), tuple(unreached))
