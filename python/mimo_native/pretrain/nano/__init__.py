"""nano: MiMo-V2-Flash in miniature, trained on what every machine with Python has.

    from mimo_native.pretrain import nano

    nano.build("runs/nano")  # corpora, tokenizer, pre-training, three MTP heads

``mimo-native pretrain nano --output runs/nano`` does the same.
"""

from .corpora import DOMAINS, write_corpora
from .recipe import build, nano_model, nano_runs, prepare_corpora
from .tokenizer import train_tokenizer

__all__ = [
    "DOMAINS",
    "build",
    "nano_model",
    "nano_runs",
    "prepare_corpora",
    "train_tokenizer",
    "write_corpora",
]
