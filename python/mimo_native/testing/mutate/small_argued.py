"""Arguments about normalisation and the sort of the experts' pairs."""

from .arguments import argue

__all__: list[str] = []
_BOUND = ("a bound shifted by one",)

argue(
    "which lanes store a sum",
    "After the exchange every lane of a warp holds the same sum, bit for bit, so lane 0 may store"
    " it or the other 31 may.",
    files="rms_norm_sm80.cu",
    line=r"if \(threadIdx.x % 32 == 0\) partial\[warp\] = x;",
    kinds=("predicate negated",),
)
argue(
    "rows of several warps",
    "The compiler asks whether the loop over a row's warps has a round at all. Rows of one warp"
    " have returned before, so there are two warps or more, 64 threads.",
    files="rms_norm_sm80.cu",
    line=r"for \(int i = 0; i < warps_per_row; \+\+i\)",
    kinds=_BOUND,
    statement=r", 32;$",
)
argue(
    "the id of no expert",
    "At the bound the id is -1, and both branches make it -1.",
    files="sort_sm80.cu",
    line=r"if \(id < 0 \|\| id >= p\.experts\) id = -1;",
    kinds=_BOUND,
    statement=r", -1;$",
)
argue(
    "two chunks or more",
    "The compiler asks whether the loop over the chunks has a round at all. A single chunk is"
    " sorted by another kernel, so there are two chunks or more.",
    files="sort_sm80.cu",
    line=r"for \(int c = 0; c < chunks; \+\+c\)",
    kinds=_BOUND,
    statement=r", 0;$",
)
