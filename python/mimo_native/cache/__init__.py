"""Committed keys and values of a model's layers, packed as the attention kernels read them."""

from .layer import GlobalLayerCache, LayerCache, RingLayerCache
from .model import ModelCache

__all__ = ["GlobalLayerCache", "LayerCache", "ModelCache", "RingLayerCache"]
