"""Speculative decoding: where drafts come from, how a tree is chosen, and when it is worth it."""

from .draft import Draft, Walk
from .policy import PLAIN
from .speculator import Mode, Round, Speculator

__all__ = ["PLAIN", "Draft", "Mode", "Round", "Speculator", "Walk"]
