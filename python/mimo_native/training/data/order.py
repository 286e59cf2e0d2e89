"""Pseudo-random orders that are a function of a key, on every machine and in every version."""

import numpy as np

__all__ = ["order"]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def order(count: int, *key: int) -> np.ndarray:
    """A permutation of range(count), int64, drawn by ``key``: splitmix64 of each index, sorted."""
    state = np.uint64(0)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64
        for part in key:
            state = _mix(state + np.uint64(part & (1 << 64) - 1))
        keys = _mix(np.arange(count, dtype=np.uint64) * _STEP + state)
    return np.argsort(keys, kind="stable")


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
