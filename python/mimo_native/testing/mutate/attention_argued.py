"""Arguments about attention's kernels."""

from .arguments import argue

__all__: list[str] = []
_BOUND = ("a bound shifted by one",)

argue(
    "the smaller of two equal positions",
    "The comparison chooses the smaller of two positions; where both are equal, either is it.",
    files="rows_sm80.cuh",
    line=r"p\.causal \? min\((b\.keys - 1, last|position, b\.keys - 1)\)",
    kinds=_BOUND,
)
argue(
    "a tile is masked that need not be",
    "The mutant calls fewer tiles wholly seen. Such a tile goes through the mask, key by key, which"
    " leaves every key of it.",
    files="forward_sm80.cu",
    line=r"const bool all_seen = |at\.position \+ kSm80KeyTile - 1 <= ",
    kinds=(*_BOUND, "predicate removed"),
)
argue(
    "which of four lanes stores a row's sums",
    "After the exchange the four lanes of a row hold the same maximum and the same sum, bit for"
    " bit, and the same address, so the first may store them or the other three may.",
    files="forward_sm80.cu",
    line=r"if \(lane % 4 == 0\) \{",
    kinds=("predicate negated",),
)
argue(
    "what the first row that is none sees",
    "The row behind the last one of a block is none. With the mutant it takes part as if it was"
    " one, with a head that there is, and is not stored: stores have bounds of their own. Where it"
    " would read masks behind the last one, cases of trees notice it.",
    files="forward_sm80.cu",
    line=r"row < rows \? query_of",
    kinds=_BOUND,
)
argue(
    "keys that are copied and hidden",
    "One key more is copied than any row of the block sees, or one that lies before the first seen"
    " one's tile, of which later tiles hold none. The mask hides it; of values, which are"
    " multiplied by 0 and might be NaN, the same is noticed.",
    files="copy_sm80.cuh",
    line=r"const bool exists = |return tile\.position \+ row < b\.keys",
    kinds=_BOUND,
)
argue(
    "zeros between rows",
    "The chunk behind a row's last one lies in the 16 bytes that keep rows on different banks. It"
    " is beyond the dims, so zeros are written there, and nobody reads them.",
    files="copy_sm80.cuh",
    line=r"if \(chunk >= chunks\) break;",
    kinds=_BOUND,
)
argue(
    "a round whose chunks are all beyond the row",
    "The loop's bound is one on the first of eight chunks. In a further round none of them is in"
    " the row, and each thread leaves at its own bound.",
    files="copy_sm80.cuh",
    line=r"for \(int c = 0; c < chunks; c \+= kRowThreads\)",
    kinds=_BOUND,
)
