"""Checkpoints: what tensors a model has, reading and writing them, and what they cost."""

from .layout import TensorSpec, expected_tensors
from .safetensors_reader import SafetensorsReader
from .writer import save_checkpoint

__all__ = [
    "SafetensorsReader",
    "TensorSpec",
    "expected_tensors",
    "save_checkpoint",
]
