"""Committed keys and values of a model's layers, packed as the attention kernels read them."""

from .formats import KvFormat
from .layer import GlobalLayerCache, LayerCache, RingLayerCache
from .model import ModelCache

__all__ = ["GlobalLayerCache", "KvFormat", "LayerCache", "ModelCache", "RingLayerCache"]
