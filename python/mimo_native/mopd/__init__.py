"""Post-training: supervised fine-tuning, GRPO, and multi-teacher on-policy distillation (MOPD).

    from mimo_native import mopd

    mopd.run(mopd.MopdConfig.read("run.json"))

``mimo-native mopd run.json`` does the same. Objective: ``policy``; names as in section 4 of the
report.
"""

from .config import Domain, LossConfig, MopdConfig, ScoreConfig, SftConfig
from .rewards import Reward
from .run import run
from .sft import sft

__all__ = [
    "Domain",
    "LossConfig",
    "MopdConfig",
    "Reward",
    "ScoreConfig",
    "SftConfig",
    "run",
    "sft",
]
