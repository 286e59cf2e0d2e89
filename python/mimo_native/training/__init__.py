"""What every training run needs: data, schedule, optimizer, checkpoints, metrics, ranks."""

from .checkpoint import Checkpoints
from .data import Mixture, PackedRows, TokenFile, TokenWriter, prepare
from .lora import LoRAConfig, attach_lora, merge_lora
from .lora_files import load_lora, save_lora
from .metrics import MetricsLog, read_metrics
from .optimizer import Optimizer, OptimizerConfig
from .schedule import Piece, Schedule, Stage
from .signals import StopRequest

__all__ = [
    "Checkpoints",
    "LoRAConfig",
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
    "attach_lora",
    "load_lora",
    "merge_lora",
    "prepare",
    "read_metrics",
    "save_lora",
]
