"""MTP heads for SmolLM2-135M-Instruct, trained on its frozen trunk.

    from mimo_native.pretrain import smollm2

    smollm2.build("runs/smollm2-mtp")  # writes runs/smollm2-mtp/heads

``mimo-native pretrain smollm2 --output runs/smollm2-mtp`` does the same.
"""

from .corpora import DOMAINS, write_tokens
from .recipe import build, smollm2_runs

__all__ = ["DOMAINS", "build", "smollm2_runs", "write_tokens"]
