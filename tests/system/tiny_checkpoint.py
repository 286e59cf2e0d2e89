"""A checkpoint of a tiny random model with tokenizer and chat template; needs no network."""

import json
from dataclasses import replace
from pathlib import Path

import mimo_native as mn

from ..text.vocabularies import byte_level

__all__ = ["CHAT", "CONFIG", "save_tiny_checkpoint"]

CONFIG = replace(
    mn.MiMoConfig.tiny(), vocab_size=640, num_mtp_layers=0, eos_token_id=2, bos_token_id=None
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_checkpoint(folder: Path) -> Path:
    """Write it to ``folder``; the same bytes each time."""
    mn.MiMoForCausalLM(CONFIG).init_weights(std=0.1, seed=2).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_level().to_str(), "utf-8")
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens), "utf-8")
    return folder
