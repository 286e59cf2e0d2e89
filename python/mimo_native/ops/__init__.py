"""Stateless operations, one file per kernel family: choose a backend, allocate, call.

The native binding validates; ``mimo_native.reference`` has the same names in plain torch.
"""

<<<<<<< HEAD
from .attention import attention, attention_cached, attention_varlen
=======
from .experts import expert_mlp, swiglu, swiglu_mlp
>>>>>>> ffee20e (Add the routed and dense SwiGLU layers in one parallel region)
from .gemm import PackedWeight, grouped_gemm, linear, pack
from .norm_rope import rms_norm, rope, rope_table

__all__ = [
    "PackedWeight",
<<<<<<< HEAD
    "attention",
    "attention_cached",
    "attention_varlen",
=======
    "expert_mlp",
>>>>>>> ffee20e (Add the routed and dense SwiGLU layers in one parallel region)
    "grouped_gemm",
    "linear",
    "pack",
    "rms_norm",
    "rope",
    "rope_table",
    "swiglu",
    "swiglu_mlp",
]
