"""A byte-level BPE tokenizer with single digits, trained by the package ``tokenizers``."""

import json
from collections.abc import Iterable
from pathlib import Path

from ...errors import UnsupportedError
from ...text import Tokenizer
from ...training.data.prepare import read_texts

__all__ = ["train_tokenizer"]

_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def train_tokenizer(
    files: Iterable[str | Path], output: str | Path, *, vocab_size: int
) -> Tokenizer:
    """Train on JSONL ``files``, write tokenizer.json and its configuration into ``output``.

    Id 0 is <|endoftext|>. Raises UnsupportedError without the package ``tokenizers``.
    """
    try:
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise UnsupportedError(
            "train_tokenizer",
            ["the package tokenizers is not installed"],
            remedy="Run `pip install 'mimo-native[train]'`.",
        ) from error
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(read_texts(files, field="text"), trainer)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    backend.save(str(output / "tokenizer.json"))
    config = {"eos_token": _SPECIAL[0], "pad_token": _SPECIAL[0]}
    (output / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
    return Tokenizer.from_pretrained(output)
