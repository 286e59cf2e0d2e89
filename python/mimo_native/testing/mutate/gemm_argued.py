"""Arguments about the products and their row tiles."""

import re

from .arguments import argue
from .mutations import Mutation
from .ptx import Ptx

__all__: list[str] = []
_BOUND = ("a bound shifted by one",)
_PRODUCT = re.compile(r"gemm_(bf16|f32)ILi\dE(13__nv_bfloat16)?f?LNS_10GemmOutputE(\d)E")
_TILE = re.compile(r"gemm_bf16ILi(\d)ELNS_10GemmOutputE(\d)E")


def _ends_the_neighbours(ptx: Ptx, mutation: Mutation) -> bool:
    """The comparison is about the last of a thread's neighbouring columns."""
    kernel = ptx.kernel_of(mutation.line)
    match = _TILE.search(kernel.name) if kernel else None
    if not match:
        return False
    tile, output = int(match[1]), int(match[2])
    neighbours = (4 if tile == 0 else 8) // (2 if output == 2 else 1)
    return mutation.original.endswith(f", {neighbours};")


def _stores_vectors(ptx: Ptx, mutation: Mutation) -> bool:
    """The next store of a bf16 product's kernel is of several columns at once."""
    kernel = ptx.kernel_of(mutation.line)
    if kernel is None or not _TILE.search(kernel.name):
        return False
    following = (ptx.line(n) for n in range(mutation.line, kernel.last))
    store = next((s for s in following if s.startswith("st.global.")), "")
    return re.match(r"st\.global\.(v[24]\.|[bu]32|[bu]64)", store) is not None


argue(
    "whole columns: what is left is a multiple of the neighbours",
    "The store of whole vectors runs where the width, and so the number of columns that are left,"
    " is a multiple of the thread's neighbours, which are two or more: none left, or more than"
    " one.",
    files=("gemm_bf16_sm80.cu", "vector_sm80.cuh"),
    kinds=_BOUND,
    statement=r"^setp\.lt\.s32\s.*, 1;$",
    structure=_stores_vectors,
)
argue(
    "single columns: what is left is no multiple of the neighbours",
    "The store of single columns runs where the width, and so the number of columns that are"
    " left, is no multiple of the thread's neighbours: just as many as there are neighbours are"
    " never left.",
    files="gemm_bf16_sm80.cu",
    line=r"if \(i < left\) y\[i\]",
    kinds=_BOUND,
    structure=_ends_the_neighbours,
)
argue(
    "a stage too many is loaded",
    "At the bound the stage behind the last is loaded too. All its inputs lie beyond the end, so"
    " nothing is read and zeros are written, to a stage that was read out a step before and that"
    " nobody multiplies any more.",
    files="tile_sm80.cuh",
    line=r"if \(step \+ kStages - 1 < steps\) load",
    kinds=_BOUND,
)


def _users(ptx: Ptx, mutation: Mutation) -> frozenset[str]:
    """Who launches a product's kernel with tiles of groups: "grouped", "up", "down"; none: nobody.

    grouped_gemm's result has the dtype of its rows. Of the experts' products the first has SwiGLU's
    output, in the dtype of the weights, and the second reads that and makes float32.
    """
    kernel = ptx.kernel_of(mutation.line)
    match = _PRODUCT.search(kernel.name) if kernel else None
    if not match:
        return frozenset({"unknown"})
    rows = "bf16" if match[1] == "bf16" or match[2] else "f32"
    output = ("bf16", "f32", "swiglu")[int(match[3])]
    users = {"up"} if output == "swiglu" else set()
    if output == rows:
        users.add("grouped")
    if output == "f32" and (match[1] == "bf16" or rows == "f32"):
        users.add("down")
    return frozenset(users)


def _by_number(ptx: Ptx, mutation: Mutation) -> bool:
    guard = re.match(r"@(%\w+)", mutation.original)
    setter = ptx.setter(guard[1], mutation.line) if guard else ""
    is_null = re.match(r"setp\.eq\.s64\s+%\w+, %\w+, 0;", setter)
    return bool(is_null) and not _users(ptx, mutation) & {"up", "unknown"}


argue(
    "rows by their number",
    "Only the first product of the experts gathers its rows by an index, and its output is"
    " SwiGLU's. The kernels of the other outputs are always launched without one: the branch is"
    " always taken.",
    files=("tile_sm80.cuh", "gemm_f32_sm80.cu"),
    line=r"for \(int i = 0; i < kCopies; \+\+i\)|p\.index \? p\.index\[row\]",
    kinds=("predicate removed",),
    structure=_by_number,
)
argue(
    "no rows of no group",
    "Rows of no group are described by grouped_gemm alone, and its result has the dtype of its"
    " rows. Of this kernel the tiles are those of experts, or all of group 0 of 1: at the bound"
    " there is none.",
    files=("gemm_bf16_sm80.cu", "gemm_f32_sm80.cu"),
    line=r"tile\.group < p\.groups \? p\.inputs : 0",
    kinds=_BOUND,
    structure=lambda ptx, mutation: not _users(ptx, mutation) & {"grouped", "unknown"},
)
argue(
    "a plain product has no tiles of groups",
    "Neither grouped_gemm nor the experts make this output from rows and weights of these dtypes,"
    " so the kernel is launched by linear alone and without tiles: the branch is always taken.",
    files="tile_sm80.cuh",
    line=r"if \(p\.tiles\) \{",
    kinds=("predicate removed",),
    structure=lambda ptx, mutation: not _users(ptx, mutation),
)
argue(
    "a plain product has no empty tile",
    "This kernel is launched by linear alone. Its tiles are cut from the rows that there are, and"
    " each has one or more.",
    files=("gemm_bf16_sm80.cu", "gemm_f32_sm80.cu"),
    line=r"if \(tile\.first >= tile\.end\) return;",
    kinds=_BOUND,
    structure=lambda ptx, mutation: not _users(ptx, mutation),
)
argue(
    "a tile behind the last group",
    "A tile number equal to the count of tiles is described as rows behind the last group's end,"
    " which is no row, instead of as zeros, which is no row either; a product of no rows returns"
    " at once.",
    files="row_tiles_sm80.cuh",
    line=r"if \(i < total\) \{",
    kinds=_BOUND,
)
