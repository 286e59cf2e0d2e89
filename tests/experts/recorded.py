"""Routing recorded from a trained model: favourites and neglected experts, tokens that follow on
one another, as no formula has them.

The shipped nano model reads the source of the standard library's json.decoder. Its four layers of
sliding attention choose 2 of 16 experts each; here they stand side by side as 8 of 64 experts,
which keeps the loads and the order of the tokens. ``python -m tests.experts.recorded`` records it.
"""

import inspect
import json.decoder
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["EXPERTS", "SLOTS", "recorded_ids"]

EXPERTS, SLOTS = 64, 8
_FILE = Path(__file__).with_name("recorded_routing.npy")
_TOKENS, _LAYERS, _PER_LAYER = 1024, 4, 16


def recorded_ids(tokens: int, seed: int) -> Tensor:
    """int32 [tokens, 8]: a stretch of the record, which begins anew after its end."""
    ids = _record()
    first = seed * 131 % len(ids)
    return ids[torch.arange(first, first + tokens) % len(ids)].int().contiguous()


@cache
def _record() -> Tensor:
    return torch.from_numpy(np.load(_FILE))


def main() -> None:
    import mimo_native as mn

    model, tokenizer = mn.load("nano")
    ids = torch.tensor([tokenizer.encode(inspect.getsource(json.decoder))[:_TOKENS]])
    with torch.no_grad():
        chosen = model(ids, logits="none").routing[:_LAYERS, 0]  # [layers, T, 2]
    apart = chosen + _PER_LAYER * torch.arange(_LAYERS, dtype=chosen.dtype)[:, None, None]
    np.save(_FILE, apart.transpose(0, 1).reshape(_TOKENS, SLOTS).numpy())


if __name__ == "__main__":
    main()
