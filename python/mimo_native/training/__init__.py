"""What every training run needs: data, schedule, optimizer, checkpoints, metrics, ranks."""

from .checkpoint import Checkpoints
from .data import Mixture, PackedRows, TokenFile, TokenWriter, prepare
from .metrics import MetricsLog, read_metrics
from .optimizer import Optimizer, OptimizerConfig
from .schedule import Piece, Schedule, Stage
from .signals import StopRequest

__all__ = [
    "Checkpoints",
    "MetricsLog",
    "Mixture",
    "Optimizer",
    "OptimizerConfig",
    "PackedRows",
    "Piece",
    "Schedule",
    "Stage",
    "StopRequest",
    "TokenFile",
    "TokenWriter",
    "prepare",
    "read_metrics",
]
