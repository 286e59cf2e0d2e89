"""Calls of the native sampler with numbers as controls, and with given coins."""

import torch
from torch import Tensor

from mimo_native import _C, ops

__all__ = ["draw", "draw_with_coins"]


def _rows(batch: int, controls: dict[str, object]) -> dict[str, object]:
    rows = {
        name: torch.full((batch,), value, dtype=torch.int32 if name == "top_k" else torch.float32)
        if isinstance(value, int | float)
        else value
        for name, value in controls.items()
    }
    rows.setdefault("seed", torch.zeros(batch, dtype=torch.int64))
    rows.setdefault("position", torch.arange(batch))
    return rows


def draw(logits: Tensor, **controls: object) -> tuple[Tensor, Tensor]:
    return ops.sample(logits, **_rows(len(logits), controls))


_ORDER = (
    "seed",
    "position",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "history",
    "prompt_lens",
)


def draw_with_coins(logits: Tensor, coins: Tensor, **controls: object) -> Tensor:
    """The id that each coin [B] in [0, 1) picks from logits [V]."""
    batch = len(coins)
    rows = _rows(batch, controls)
    table = logits.expand(batch, -1)
    return _C.sample(table, *(rows.get(name) for name in _ORDER), coins.double())[0]
