"""Sampling controls, the batching engine, generate and stream."""

from .engine import Engine
from .generation import generate, stream
from .request import Completion, Piece, Stats
from .sampling import Sampling

__all__ = ["Completion", "Engine", "Piece", "Sampling", "Stats", "generate", "stream"]
