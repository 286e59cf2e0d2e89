"""Arguments about attention's kernels."""

import re

from .arguments import argue
from .mutations import Mutation
from .ptx import Ptx

__all__: list[str] = []
_BOUND = ("a bound shifted by one",)


def _in_bf16(ptx: Ptx, mutation: Mutation) -> bool:
    kernel = ptx.kernel_of(mutation.line)
    return kernel is not None and "attention_f32" not in kernel.name


def _before_any_barrier(ptx: Ptx, mutation: Mutation) -> bool:
    """In bfloat16, and above every barrier of the block."""
    kernel = ptx.kernel_of(mutation.line)
    if kernel is None or not _in_bf16(ptx, mutation):
        return False
    above = (ptx.line(n) for n in range(kernel.first, mutation.line))
    return not any(re.match(r"bar(rier)?\.(cta\.)?sync", statement) for statement in above)


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
    " is beyond the dims, so zeros are written there, and nobody reads them. Not in float32, where"
    " it would be what follows the row.",
    files="copy_sm80.cuh",
    line=r"for \(int c = 0; kDim \?",
    kinds=_BOUND,
    structure=_in_bf16,
)
argue(
    "sixteen rows more of the first keys",
    "Behind the first tile of keys lies the place of the values, which are copied after a wait and"
    " a barrier. Until then nobody reads it, and of the rows behind the 64th only those that there"
    " are are copied. Of the tiles after it, which arrive beside values, the same is noticed.",
    files="copy_sm80.cuh",
    line=r"for \(int first = 0; first < kRows;",
    kinds=_BOUND,
    structure=_before_any_barrier,
)
argue(
    "a dim that is odd",
    "Steps of 16 columns begin below the dim exactly if it is not below an odd number, 16 n + 1 for"
    " step n. Dims are multiples of 8 and never equal to it, where alone < and <= differ.",
    files=("forward_sm80.cu", "lanes_sm80.cuh"),
    kinds=_BOUND,
    statement=r"setp\.(lt|gt)\.s(32|64)\s+%p\d+, %rd?\d+, (1|17|33|49|65|81|97|113);$",
)
argue(
    "which lane stores an lse",
    "All lanes of the warp that merges a row hold the same lse and the same address, bit for bit,"
    " so lane 0 may store it or the other 31 may.",
    files="merge_sm80.cu",
    line=r"if \(lane == 0\) store_lse",
    kinds=("predicate negated",),
)
argue(
    "which lane stores a row's lse or sums",
    "After the shuffles all lanes of the warp hold the same maximum and sum of a row, bit for bit,"
    " and the same address, so lane 0 may store them, the other 31 may, or all.",
    files="forward_f32_sm80.cu",
    line=r"if \(lane == 0\)",
    kinds=("predicate negated", "predicate removed"),
)
argue(
    "a head dim of four",
    "The compiler asks whether the loop over a row's float4 has a round at all. Dims are multiples"
    " of 8, and never equal to the 4 where alone < and <= differ.",
    files="forward_f32_sm80.cu",
    kinds=_BOUND,
    statement=r"setp\.lt\.s32\s+%p\d+, %r\d+, 4;$",
)
argue(
    "splits to merge",
    "The compiler asks whether the loop over the splits has a round at all. The kernel is launched"
    " for two splits or more.",
    files="merge_sm80.cu",
    kinds=_BOUND,
    statement=r"setp\.(gt\.s32\s+%p\d+, %r\d+, 0|lt\.s32\s+%p\d+, %r\d+, 1);$",
)
