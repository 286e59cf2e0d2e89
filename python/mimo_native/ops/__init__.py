"""Stateless operations, one file per kernel family: choose a backend, allocate, call.

The native binding validates; ``mimo_native.reference`` has the same names in plain torch.
"""

from .attention import attention, attention_cached, attention_varlen
from .experts import expert_mlp, swiglu, swiglu_mlp
from .gemm import PackedWeight, grouped_gemm, linear, pack
from .loss import linear_cross_entropy, linear_logprob, linear_reverse_kl
from .norm_rope import rms_norm, rope, rope_cached, rope_table
from .routing import route
from .sampling import sample
from .speculative import build_draft_tree, verify_tree

__all__ = [
    "PackedWeight",
    "attention",
    "attention_cached",
    "attention_varlen",
    "build_draft_tree",
    "expert_mlp",
    "grouped_gemm",
    "linear",
    "linear_cross_entropy",
    "linear_logprob",
    "linear_reverse_kl",
    "pack",
    "rms_norm",
    "rope",
    "rope_cached",
    "rope_table",
    "route",
    "sample",
    "swiglu",
    "swiglu_mlp",
    "verify_tree",
]
