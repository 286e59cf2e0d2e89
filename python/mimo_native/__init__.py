"""Layers, kernels, inference and training of the MiMo-V2-Flash system, on CPUs and NVIDIA GPUs."""

import torch  # noqa: F401  first: its OpenMP runtime becomes the one of the process

from . import backends, ops, reference
from .config import MiMoConfig
from .errors import CheckpointError, ShapeError, UnsupportedError

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "MiMoConfig",
    "ShapeError",
    "UnsupportedError",
    "backends",
    "ops",
    "reference",
]
