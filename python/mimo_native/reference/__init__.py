"""Every op in plain torch, any float dtype up to float64: the oracle and the documentation."""

from .norm_rope import rms_norm, rope, rope_table

__all__ = ["rms_norm", "rope", "rope_table"]
