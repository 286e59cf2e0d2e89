"""Arguments about what the compiler makes, whichever kernel it stands in."""

import re

from .arguments import argue
from .mutations import Mutation
from .ptx import Ptx

__all__: list[str] = []

_GUARD = re.compile(r"^@!?(%\w+)\s")


def guard_setter(ptx: Ptx, mutation: Mutation) -> str:
    """The statement that sets the predicate of a guarded statement."""
    match = _GUARD.match(mutation.original)
    return ptx.setter(match[1], mutation.line) if match else ""


def _wide_division(ptx: Ptx, mutation: Mutation) -> bool:
    """The branch between a division of 64 bits and one of 32: are both operands' high halves 0?"""
    match = re.match(r"setp\.(?:ne|eq)\.[bsu]64\s+%\w+, (%\w+), 0;", guard_setter(ptx, mutation))
    if not match:
        return False
    masked = ptx.setter(match[1], mutation.line)
    return bool(re.match(r"and\.b64\s+%\w+, %\w+, -4294967296;", masked))


argue(
    "32-bit or 64-bit division",
    "The compiler divides numbers of 64 bits by the 32-bit instruction when the high halves of"
    " both are 0, and branches on that. Both paths compute the same quotient for operands below"
    " 2^32; larger ones would need a row or a count of that size, more than any case can hold.",
    kinds=("predicate negated", "predicate removed"),
    structure=_wide_division,
)


def _one_barrier_for_all(ptx: Ptx, mutation: Mutation) -> bool:
    """All barriers of the kernel are barrier 0 of the whole block."""
    kernel = ptx.kernel_of(mutation.line)
    if kernel is None:
        return False
    statements = (ptx.line(n) for n in range(kernel.first, kernel.last))
    barriers = {s for s in statements if re.search(r"\bbar(rier)?\.(cta\.)?(sync|arrive|red)", s)}
    return all(re.fullmatch(r"bar(rier)?\.sync\s+0;", s) for s in barriers)


argue(
    "another number for a barrier of the whole block",
    "Every barrier of the kernel is number 0 and waits for all threads of the block. With another"
    " number at one place the threads that come to this place still meet there and nowhere else;"
    " it makes a difference only to threads that wait at two places at once, and they would hang.",
    kinds=("another barrier",),
    structure=_one_barrier_for_all,
)
