"""Pre-training with multi-token prediction: the report's recipe at any scale."""

from .config import EvalConfig, PretrainConfig, SaveConfig
from .estimate import Estimate, Hardware, estimate
from .evaluate import DomainScore, evaluate
from .heads import Boundary, attach_mtp, expand_mtp
from .objective import Losses, Objective, Totals, Weights
from .presets import report
from .run import RunResult, run

__all__ = [
    "Boundary",
    "DomainScore",
    "Estimate",
    "EvalConfig",
    "Hardware",
    "Losses",
    "Objective",
    "PretrainConfig",
    "RunResult",
    "SaveConfig",
    "Totals",
    "Weights",
    "attach_mtp",
    "estimate",
    "evaluate",
    "expand_mtp",
    "report",
    "run",
]
