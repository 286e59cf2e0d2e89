"""A tiny model on disk with prompts as token ids, for whole runs."""

import json
from collections.abc import Sequence
from pathlib import Path

from mimo_native.mopd import Domain, MopdConfig

from ..pretrain.models import random_model, tiny

VOCAB = 256


def checkpoint(path: Path, *, seed: int = 0, **changes: object) -> str:
    """A random model of two layers, one with experts, in the hub's layout."""
    import torch

    fields = {
        "hybrid_layer_pattern": (0, 1),
        "moe_layer_freq": (0, 1),
        "num_mtp_layers": 1,
        "eos_token_id": 1,
    }
    config = tiny(**(fields | changes))
    random_model(config, dtype=torch.float32, seed=seed).save_pretrained(path)
    return str(path)


def prompt_file(path: Path, count: int = 6, *, start: int = 2) -> str:
    rows = [
        {"prompt": [(start + 7 * i + j) % 250 + 2 for j in range(2 + i % 3)], "answer": [5, 6]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(tmp_path: Path, name: str = "run", **changes: object) -> MopdConfig:
    """Two domains, one taught by another model and one by the model itself."""
    if not (tmp_path / "student").exists():
        checkpoint(tmp_path / "student")
        checkpoint(tmp_path / "teacher", seed=7)
        for domain in "ab":
            prompt_file(tmp_path / f"{domain}.jsonl", start=ord(domain))
    domains = {
        "a": Domain(prompts=str(tmp_path / "a.jsonl"), teacher="t", reward="length"),
        "b": Domain(prompts=str(tmp_path / "b.jsonl"), teacher="self"),
    }
    fields = {
        "output": str(tmp_path / name),
        "init": str(tmp_path / "student"),
        "domains": domains,
        "teachers": {"t": str(tmp_path / "teacher")},
        "steps": 3,
        "prompts_per_step": 4,
        "lr": 1e-3,
        "max_new_tokens": 5,
        "dtype": "float32",
    }
    return MopdConfig(**(fields | changes))


def length_reward(completion: Sequence[int] | str, answer: object, prompt: object) -> float:
    """Any number that differs between rollouts."""
    return float(len(completion) + sum(map(int, completion)) % 3)


REWARDS = {"length": length_reward}
__all__ = ["REWARDS", "VOCAB", "checkpoint", "config", "length_reward", "prompt_file"]
