"""Recipes by name."""

from dataclasses import replace

from ..config import MiMoConfig
from ..training.schedule import Piece, Schedule, Stage

__all__ = ["report", "report_model"]

_B, _T = 10**9, 10**12


def report() -> Schedule:
    """The 27 T-token schedule of the report, section 3.

    Three things it leaves open are filled in: the batch ramp begins at 256 sequences, the warm-up
    counts within the 12 T tokens at constant rate (the stage then ends at 22 T), and of the
    mixtures only the share of synthetic reasoning is known.
    """
    general = {"general": 1.0}
    reasoning = {"general_and_code": 0.95, "synthetic_reasoning": 0.05}
    return Schedule(
        (
            Stage(
                name="general",
                tokens=22 * _T,
                seq_len=32_768,
                batch=2048,
                batch_start=256,
                batch_ramp_tokens=500 * _B,
                lr=(
                    Piece("linear", 50 * _B, 3.2e-4),
                    Piece("constant", 12 * _T - 50 * _B, 3.2e-4),
                    Piece("cosine", 10 * _T, 1e-4),
                ),
                mixture=general,
                rope_theta=640_000.0,
                swa_rope_theta=10_000.0,
                mtp_weight=0.3,
                bias_rate=1e-3,
                aux_coefficient=1e-5,
            ),
            Stage(
                name="reasoning",
                tokens=4 * _T,
                seq_len=32_768,
                batch=2048,
                lr=(Piece("cosine", 4 * _T, 3e-5),),
                mixture=reasoning,
                mtp_weight=0.1,
                bias_rate=1e-3,
                aux_coefficient=1e-5,
            ),
            Stage(
                name="long context",
                tokens=1 * _T,
                seq_len=262_144,
                batch=256,
                lr=(Piece("cosine", 1 * _T, 1e-5),),
                mixture=reasoning,
                rope_theta=5_000_000.0,
                mtp_weight=0.1,
                bias_rate=1e-5,
                aux_coefficient=1e-5,
            ),
        )
    )


def report_model() -> MiMoConfig:
    """MiMo-V2-Flash as pre-trained: one MTP block, and the RoPE base of the first stages."""
    return replace(MiMoConfig.mimo_v2_flash(), num_mtp_layers=1, rope_theta=640_000.0)
