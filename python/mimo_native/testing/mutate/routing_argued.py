"""Arguments about the router."""

import re

from .arguments import argue
from .mutations import Mutation
from .ptx import Ptx

__all__: list[str] = []
_BOUND = ("a bound shifted by one",)
_LEAST_EXPERTS = {"2": 1, "8": 65, "32": 257}  # of the kernel with so many registers


def _always_there(ptx: Ptx, mutation: Mutation) -> bool:
    """Every lane's expert of this register is one of the fewest that the kernel is called with."""
    kernel = ptx.kernel_of(mutation.line)
    registers = re.search(r"routeILi(\d+)E", kernel.name) if kernel else None
    compared = re.match(r"setp\.ge\.s32\s+%\w+, (%\w+), %\w+;", mutation.original)
    if not registers or not compared:
        return False
    setter = ptx.setter(compared[1], mutation.line)
    if re.match(r"and\.b32\s+%\w+, %\w+, 31;", setter):
        first = 0
    elif offset := re.match(r"or\.b32\s+%\w+, %\w+, (\d+);", setter):
        first = int(offset[1])
    else:
        return False
    return first + 31 < _LEAST_EXPERTS[registers[1]]


argue(
    "registers that always hold an expert",
    "Up to 64 and up to 256 experts have kernels with fewer registers of their own. So the larger"
    " kernels have 65 or 257 experts at least, and the first registers of a lane never stand for"
    " the one behind the last.",
    files="route_sm80.cu",
    line=r"of\[i\] = e < experts \? logits\[e\] : -INFINITY;",
    kinds=_BOUND,
    structure=_always_there,
)
argue(
    "groups of two experts or more",
    "The compiler asks whether the loop over a group's experts has a round at all. Groups of one"
    " expert are refused before a launch, so there are two rounds or more.",
    files="route_sm80.cu",
    line=r"for \(int j = 0; j < size; \+\+j\)|if \(group >= groups \|\| open >> i & 1\) continue;",
    kinds=_BOUND,
    statement=r", 1;$",
)
argue(
    "a group closed once more",
    "A round more begins the group again, as the place is taken modulo its size, and writes -inf"
    " where the first round has written it.",
    files="route_sm80.cu",
    line=r"keys\[group \* size \+ \(j \+ lane\) % size\] = -INFINITY;",
    kinds=_BOUND,
    statement=r"^setp\.lt\.s32\s+%\w+, %\w+, %\w+;$",
)
argue(
    "a group that cannot be",
    "A round more is about group 32 times the rounds and those behind it. Experts are at most"
    " twice as many and groups at most half the experts, so there is no such group and the round"
    " ends at once.",
    files="route_sm80.cu",
    line=r"for \(int i = 0; i < kGroupsPerLane; \+\+i\)",
    kinds=_BOUND,
    statement=r"^setp\.lt\.u32\s.*, (4|16);$",
)
argue(
    "an odd slot",
    "The compiler makes two rounds at once. In the second it asks whether the slot of the first,"
    " which is even, is below 31: it is never 31.",
    files="route_sm80.cu",
    line=r"if \(slot >= 32\) weights\[slot - 32\] = score;",
    kinds=_BOUND,
    statement=r", 31;$",
)
