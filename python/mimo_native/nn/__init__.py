"""Layers and the model as torch modules, with the state-dict names of the released checkpoints."""

from .attention import Attention
from .embedding import Embedding
from .layer import DecoderLayer, MTPBlock
from .mlp import MLP, Experts, MoE, Router, Routing
from .model import MiMoForCausalLM, MiMoModel, Output
from .norm import RMSNorm
from .weight import Weight

__all__ = [
    "MLP",
    "Attention",
    "DecoderLayer",
    "Embedding",
    "Experts",
    "MTPBlock",
    "MiMoForCausalLM",
    "MiMoModel",
    "MoE",
    "Output",
    "RMSNorm",
    "Router",
    "Routing",
    "Weight",
]
