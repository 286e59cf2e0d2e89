"""Speculative decoding: where drafts come from, how a tree is chosen, and when it is worth it."""

from .draft import Draft, Round, TreeShape, Walk
from .native import NativeRounds
from .policy import Plan
from .speculator import Mode, Speculator

__all__ = ["Draft", "Mode", "NativeRounds", "Plan", "Round", "Speculator", "TreeShape", "Walk"]
