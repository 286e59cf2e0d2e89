"""Every operation in plain torch: the definition, the oracle of the tests and the slow backend.

Names and signatures are those of ``mimo_native.ops``. Any floating dtype up to float64 is accepted;
sums run in float32, or in float64 for float64 inputs, and results are rounded once, to the dtype of
the input. Gradients are torch's own. Nothing here needs the native extension.
"""

from .attention import attention, attention_cached, attention_varlen
from .experts import expert_mlp, swiglu, swiglu_mlp
from .gemm import grouped_gemm, linear
from .loss import linear_cross_entropy, linear_logprob, linear_reverse_kl
from .norm_rope import rms_norm, rope, rope_cached, rope_table
from .routing import RouteStats, route
from .sampling import philox4x32_10, philox_uniform, sample
from .speculative import DraftTree, Verified, build_draft_tree, verify_tree

__all__ = [
    "DraftTree",
    "RouteStats",
    "Verified",
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
    "philox4x32_10",
    "philox_uniform",
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
