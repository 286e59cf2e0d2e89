"""Arguments about the sampler, draft trees and the table of rotary angles."""

import re

from .arguments import Structure, argue
from .compiler import guard_setter
from .mutations import Mutation
from .ptx import Ptx

__all__: list[str] = []
_BOUND = ("a bound shifted by one",)


def _decided_by(constant: str) -> Structure:
    """The comparison with a constant, or what it guards."""

    def holds(ptx: Ptx, mutation: Mutation) -> bool:
        compared = guard_setter(ptx, mutation) or mutation.original
        return compared.endswith(f", {constant};")

    return holds


def _of_a_chunk(ptx: Ptx, mutation: Mutation) -> bool:
    """The weight that is compared with 0 is a chunk's sum, which is in shared memory."""
    compared = re.search(r"(%fd\d+), 0d0000000000000000;$", mutation.original)
    setter = ptx.setter(compared[1], mutation.line) if compared else ""
    return setter.startswith("ld.shared.f64")


for _name, _file, _line in (
    ("a warp's largest key", "sample_sm80.cu", r"if \(threadIdx\.x % 32 == 0\) keys"),
    ("a chunk's sum", "sample_sm80.cu", r"if \(lane == 0\) sums\["),
    ("the drawn id", "sample_sm80.cu", r"if \(threadIdx\.x == 0\) \{"),
    ("a visited node", "tree_sm80.cu", r"if \(lane == 0\) p\.visited"),
    ("how many nodes were visited", "tree_sm80.cu", r"if \(lane == 0\) \*p\.count"),
):
    argue(
        f"which lanes store {_name}",
        "All 32 lanes of the only warp that stores there hold the same value and the same address,"
        " bit for bit, so lane 0 may store it or the other 31 may.",
        files=_file,
        line=_line,
        kinds=("predicate negated",),
    )
argue(
    "another number for the sampler's barrier",
    "The other barrier, which also tells whether any thread saw what is no logit, is number 0 and"
    " waits for the whole block; all threads meet at this one, under whichever number.",
    files="sample_sm80.cu",
    line=r"__syncthreads\(\);",
    kinds=("another barrier",),
)
argue(
    "log of a number that is not denormal",
    "The sum of weights is at least the 1 of the largest logit and at most the number of ids, below"
    " 2^23. The branch scales denormal numbers by 2^54 and takes 54 off the exponent again, which"
    " is exact for the sums that there are, too.",
    files="sample_sm80.cu",
    line=r"log\(total\)",
    structure=_decided_by("1048575"),
)
argue(
    "log of a number that is finite",
    "The sum of weights lies between 1 and 2^23, so that the branch to infinities and NaN is never"
    " taken, and the first exponent that takes it is far away.",
    files="sample_sm80.cu",
    line=r"log\(total\)",
    kinds=(*_BOUND, "predicate removed"),
    structure=_decided_by("2146435071"),
)
argue(
    "log of an infinity",
    "What log asks in that branch, which no sum of weights takes.",
    files="sample_sm80.cu",
    line=r"log\(total\)",
    kinds=("an equality inverted",),
)
argue(
    "a chunk that weighs nothing",
    "The coin is at most 1 - 2^-53 and its product with the total rounds below the total, which is"
    " the sum of the same chunks in the same order. So a chunk that exceeds the target comes after"
    " every chunk that does not, and takes the place of one without weight that was passed before.",
    files="sample_sm80.cu",
    kinds=_BOUND,
    statement=r"setp\.leu\.f64\s",
    structure=_of_a_chunk,
)
argue(
    "log's interval of the mantissa",
    "The mantissa is taken from [1/sqrt 2, sqrt 2), or without this choice from [1, 2) or [1/2, 1):"
    " the same identity log x = e log 2 + log m, and the polynomial for log m still converges;"
    " over 830 rows log-probabilities moved by at most 5e-10, and their type is float32.",
    files="sample_sm80.cu",
    line=r"log\(total\)",
    structure=_decided_by("1073127583"),
)
argue(
    "words of 2/pi that a float32 angle asks for",
    "The exponent of a float32 angle is below 128, so that the first word asked for is 15 or 16 of"
    " the table, never 14 or 18: these bounds decide about float64 angles from 2^153 on.",
    files="rope_sm80.cu",
    kinds=_BOUND,
    statement=r"setp\.gt\.s32\s+%p\d+, %r\d+, (14|%r4);$",
)
argue(
    "the fraction of a quarter turn is never 0",
    "No float but 0 is a multiple of pi/2, so the fraction's first bit is set once it is normalised"
    " and its product with pi/2 is not 0, where alone > and >= differ.",
    files="rope_sm80.cu",
    kinds=_BOUND,
    statement=r"setp\.gt\.s64\s+%p\d+, %rd\d+, 0;$",
)
argue(
    "where the two reductions of an angle meet",
    "Angles of 2^31 and more take the slow reduction. At 2^31 itself the fast one holds as well:"
    " the number of quarter turns, 1.37e9, is an int.",
    files="rope_sm80.cu",
    kinds=_BOUND,
    statement=r"setp\.ltu\.f64\s+%p\d+, %fd\d+, 0d41E0000000000000;$",
)
