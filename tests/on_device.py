"""The arguments of a case, made on the CPU, on a device."""

import torch
from torch import Tensor

from .attention.caches import empty_cache
from .attention.cases import Committed
from .case import Case

__all__ = ["moved", "on_device"]


def moved(value: object, device: str) -> object:
    """With every tensor on ``device``; tuples keep their type."""
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.to(device) if isinstance(value, Tensor) else value


def on_device(case: Case, args: dict[str, object], device: str) -> dict[str, object]:
    """``args`` of ``case.make()``; committed tokens become a cache of the device."""
    there = {name: moved(value, device) for name, value in args.items()}
    stored = args.get("layer_cache")
    if isinstance(stored, Committed):
        there["layer_cache"] = _filled(stored, case.window, device)
    return there


def _filled(stored: Committed, window: int | None, device: str) -> object:
    longest = max((len(k) for k in stored.keys), default=0)
    sizes = stored.keys[0], stored.values[0], window, longest + 256
    cache = empty_cache(len(stored.keys), *sizes, device=device)
    edges = torch.tensor([0, *(len(k) for k in stored.keys)]).cumsum(0)
    new = (moved(torch.cat(list(part)), device) for part in (stored.keys, stored.values))
    cache.commit(*new, cu_seqlens_q=edges)
    return cache
