"""Layers, kernels, inference and training of the MiMo-V2-Flash system, on CPUs and NVIDIA GPUs."""

from .errors import CheckpointError, ShapeError, UnsupportedError

__version__ = "0.1.0"

__all__ = ["CheckpointError", "ShapeError", "UnsupportedError"]
