"""What a campaign found, and how it is told."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .arguments import ARGUMENTS, Argument
from .mutations import Mutation
from .ptx import Kernel

__all__ = ["Outcome", "Result", "stale"]


@dataclass(frozen=True)
class Outcome:
    """``noticed``: the reports' kinds, "wrong result" or the error's name; None: it survived.

    ``by`` names the case that noticed; ``argument`` says why a survivor makes no difference.
    """

    mutation: Mutation
    kernel: Kernel
    noticed: str | None = None
    by: str | None = None
    argument: Argument | None = None

    def __str__(self) -> str:
        return f"{self.kernel.short}\n    {self.mutation}"


@dataclass(frozen=True)
class Result:
    """Of one subject. ``unreached``: mutants of lines that no case executes; they were not run."""

    subject: str
    outcomes: tuple[Outcome, ...]
    unreached: tuple[Outcome, ...]

    @property
    def survivors(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.noticed is None]

    @property
    def unexplained(self) -> list[Outcome]:
        """Survivors, and mutants that were not reached, for which nobody has argued."""
        return [o for o in (*self.survivors, *self.unreached) if o.argument is None]

    @property
    def rate(self) -> float:
        """Of the mutants that were run, the part that was noticed."""
        killed = sum(outcome.noticed is not None for outcome in self.outcomes)
        return killed / max(len(self.outcomes), 1)

    def __str__(self) -> str:
        argued = [o.argument.name for o in (*self.survivors, *self.unreached) if o.argument]
        lines = [
            f"{self.subject}: {len(self.outcomes)} mutants, {len(self.survivors)} survive "
            f"({self.rate:.1%} noticed), {len(self.unreached)} more in lines that no case reaches; "
            f"{len(argued)} argued, {len(self.unexplained)} unexplained",
            *(f"  {count} argued: {name}" for name, count in Counter(argued).most_common()),
        ]
        reached = {id(outcome) for outcome in self.outcomes}
        for outcome in self.unexplained:
            lines.append(f"  {'SURVIVES' if id(outcome) in reached else 'not reached'} {outcome}")
        return "\n".join(lines)


def stale(results: Sequence[Result]) -> list[Argument]:
    """Arguments about files of complete ``results`` that none of their mutants needs."""
    outcomes = [o for result in results for o in (*result.outcomes, *result.unreached)]
    used = {o.argument for o in outcomes}
    files = {o.mutation.source.partition(":")[0] for o in outcomes}
    return [a for a in ARGUMENTS if a not in used and a.files and files.issuperset(a.files)]
