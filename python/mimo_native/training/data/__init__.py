"""Training data: token files on disk, packed rows, and mixtures whose state is one integer."""

from .hidden import HiddenFile, store_hidden
from .mixture import Mixture, Row
from .prepare import prepare
from .rows import PackedRows
from .token_file import TokenFile, TokenWriter

__all__ = [
    "HiddenFile",
    "Mixture",
    "PackedRows",
    "Row",
    "TokenFile",
    "TokenWriter",
    "prepare",
    "store_hidden",
]
