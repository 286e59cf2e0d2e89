"""Which changes are made to PTX text: one statement on one line at a time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutation", "apply", "mutations"]


@dataclass(frozen=True)
class Mutation:
    """Line ``line`` (from 1) of the PTX becomes ``replacement``; ``kind`` says what was done.

    ``source`` is the place in the kernel's source, where the PTX names it.
    """

    line: int
    kind: str
    original: str
    replacement: str
    source: str = ""

    @property
    def orders(self) -> bool:
        """Whether it changes what is ordered after what, not what is computed."""
        return self.kind not in _COMPUTED

    def __str__(self) -> str:
        place = f"PTX line {self.line}" + (f" ({self.source})" if self.source else "")
        return f"{place}: {self.kind}\n    - {self.original}\n    + {self.replacement}"


# Statements that may be left out whole.
_REMOVED = [
    ("barrier removed", re.compile(r"(bar|barrier)\.(cta\.)?(sync|arrive|red|warp|cluster)")),
    ("wait removed", re.compile(r"(cp\.async(\.bulk)?|wgmma)\.wait_(group|all)")),
    ("fence removed", re.compile(r"fence\.|membar\.|wgmma\.fence|tensormap\.cp_fenceproxy")),
    ("commit removed", re.compile(r"(cp\.async(\.bulk)?|wgmma)\.commit_group")),
    ("arrival removed", re.compile(r"mbarrier\.(arrive|expect_tx)|cp\.async\.mbarrier")),
    ("initialisation removed", re.compile(r"mbarrier\.init")),
]  # fmt: skip
_GUARD = re.compile(r"^(\s*)@(!?)(%?[\w$]+)\s+(.*)$")
_WAIT = re.compile(r"((?:cp\.async(?:\.bulk)?|wgmma)\.wait_group\S*\s+)(\d+)(\s*;)")
_BARRIER = re.compile(r"((?:bar|barrier)(?:\.cta)?\.(?:sync|arrive)\S*\s+)(\d+)(.*;)")
_MASK = re.compile(
    r"((?:shfl|vote|match|redux|elect)\.sync\S*\s.*,\s*)(-1|0xffffffff|4294967295)(\s*;)"
)
_COUNT = re.compile(
    r"((?:mbarrier\.init|mbarrier\.arrive\.expect_tx|mbarrier\.expect_tx)\S*\s+.*,\s*)(\d+)(\s*;)"
)
_TRY_WAIT = re.compile(r"mbarrier\.(?:try|test)_wait\S*\s+(%?[\w$]+)\s*,")
_COMPARE = re.compile(r"^(\s*setp\.)([lg][te]u?|lo|ls|hi|hs)(\..*)$")
_SHIFTED = {
    "lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "lo": "ls", "ls": "lo", "hi": "hs", "hs": "hi",
    "ltu": "leu", "leu": "ltu", "gtu": "geu", "geu": "gtu",
}  # fmt: skip
# Of floats; of integers they only guard, and the guards are negated.
_EQUAL = re.compile(r"^(\s*setp\.)(equ?|neu?)(\.(?:\w+\.)*b?f(?:16|32|64)\w*\s.*)$")
_COMPUTED = {
    "a bound shifted by one", "an equality inverted", "predicate negated", "predicate removed",
}  # fmt: skip
_INVERTED = {"eq": "ne", "ne": "eq", "equ": "neu", "neu": "equ"}
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
_PLACE = re.compile(r"^\s*\.loc\s+(\d+)\s+(\d+)")
_RELAXED = re.compile(r"\.(acquire|release|acq_rel)(?=\.)")


def _of_statement(text: str) -> Iterator[tuple[str, str]]:
    """(kind, replacement) of one line."""
    indent = text[: len(text) - len(text.lstrip())]
    guard = _GUARD.match(text)
    statement = guard.group(4) if guard else text.strip()
    prefix = text[: len(text) - len(statement)] if guard else indent
    for kind, pattern in _REMOVED:
        if pattern.match(statement):
            yield kind, indent
    if match := _WAIT.match(statement):
        yield (
            "one group more may be under way",
            (f"{prefix}{match[1]}{int(match[2]) + 1}{match[3]}"),
        )
    if match := _BARRIER.match(statement):
        yield "another barrier", f"{prefix}{match[1]}{(int(match[2]) + 5) % 16}{match[3]}"
    if match := _MASK.match(statement):
        yield "a lane left out of the mask", f"{prefix}{match[1]}2147483647{match[3]}"
    if match := _COUNT.match(statement):
        yield "one more expected", f"{prefix}{match[1]}{int(match[2]) + 1}{match[3]}"
    if match := _TRY_WAIT.match(statement):
        yield "the wait is over at once", f"{prefix}setp.eq.u32 {match[1]}, 0, 0;"
    if match := _COMPARE.match(text):
        yield "a bound shifted by one", f"{match[1]}{_SHIFTED[match[2]]}{match[3]}"
    if match := _EQUAL.match(text):
        yield "an equality inverted", f"{match[1]}{_INVERTED[match[2]]}{match[3]}"
    if _RELAXED.search(statement) and not statement.startswith("fence"):
        yield "order removed", prefix + _RELAXED.sub(".relaxed", statement)
    if guard:
        flipped = "" if guard[2] else "!"
        yield "predicate negated", f"{guard[1]}@{flipped}{guard[3]} {guard[4]}"
        yield "predicate removed", f"{guard[1]}{guard[4]}"


def _places(ptx: str, lines: list[str]) -> dict[int, str]:
    """Where the PTX names a place in the source; line 0, which is none, takes the next one's."""
    files = {number: path.rpartition("/")[2] for number, path in _FILE.findall(ptx)}
    found, following = {}, ""
    for number in range(len(lines), 0, -1):
        if place := _PLACE.match(lines[number - 1]):
            here = f"{files.get(place[1], '?')}:{place[2]}"
            following = following if place[2] == "0" and following else here
            found[number] = following
    return found


def mutations(ptx: str) -> list[Mutation]:
    """Every mutation of a module's text, in its order."""
    found, source = [], ""
    lines = ptx.split("\n")
    places = _places(ptx, lines)
    for number, text in enumerate(lines, 1):
        code = text.split("//")[0].rstrip()
        source = places.get(number, source)
        for kind, replacement in _of_statement(code):
            changed = replacement.strip() or "(nothing)"
            found.append(Mutation(number, kind, code.strip(), changed, source))
    return found


def apply(ptx: str, mutation: Mutation) -> str:
    """The text with one line changed; line numbers stay."""
    lines = ptx.split("\n")
    changed = mutation.replacement
    lines[mutation.line - 1] = "" if changed == "(nothing)" else changed
    return "\n".join(lines)
