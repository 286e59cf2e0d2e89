"""What every trainer keeps while it runs, and its way into checkpoints and exports."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..nn import MiMoForCausalLM
from ..weights.gguf_file import GGUFFile
from .checkpoint import Checkpoints
from .distributed import Ranks, full_model, shard
from .lora import AdaptedWeight
from .lora_files import save_lora
from .muon import hidden_matrices
from .optimizer import Optimizer, OptimizerConfig

__all__ = ["TrainState", "copy_tokenizer", "has_tokenizer", "require_same"]

_GGUF = "tokenizer.gguf"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", _GGUF)


class TrainState:
    """A model inside its objective, sharded over the ranks, and the optimizer of its parameters."""

    def __init__(
        self,
        model: MiMoForCausalLM,
        objective: nn.Module,
        optimizer: OptimizerConfig,
        ranks: Ranks,
    ) -> None:
        self.model, self.objective, self.ranks = model, objective, ranks
        shard(objective, model, ranks)
        self.optimizer = Optimizer(
            model.named_parameters(), optimizer, matrices=hidden_matrices(model)
        )
        self.step = 0

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint holds besides its meta: live tensors, by name."""
        masters: Mapping[str, Tensor] = self.optimizer.masters
        model = {name: masters.get(name, p) for name, p in self.model.named_parameters()}
        model |= dict(self.model.named_buffers())
        return {
            "model": {name: tensor.detach() for name, tensor in model.items()},
            "optimizer": self.optimizer.tensors(),
            "random": {"torch": torch.get_rng_state()},
        }

    def load(self, path: Path) -> None:
        """Take the tensors of a checkpoint. Raises CheckpointError."""
        state = self.tensors()
        Checkpoints.load(path, state)
        torch.set_rng_state(state["random"]["torch"])
        self.optimizer.publish()

    def export(
        self, directory: Path, tokenizer: str | Path | None = None, *, base: str | None = None
    ) -> None:
        """The model as a checkpoint in the hub's layout, with the tokenizer of a directory.

        Adapters are in the sum, and alone in DIRECTORY-adapter; base: the name of what they adapt.
        """
        whole = full_model(self.model, self.ranks)
        if whole is None:
            return
        whole.save_pretrained(directory)
        if any(isinstance(module, AdaptedWeight) for module in whole.modules()):
            save_lora(whole, directory.with_name(f"{directory.name}-adapter"), base=base)
        if tokenizer is not None:
            copy_tokenizer(tokenizer, directory)


def has_tokenizer(path: Path) -> bool:
    """Whether a checkpoint, a directory or a GGUF file, brings its tokenizer."""
    return path.suffix == ".gguf" or any(
        (path / name).is_file() for name in ("tokenizer.json", _GGUF)
    )


def copy_tokenizer(source: str | Path, target: Path) -> None:
    """The tokenizer's files of one directory, those that there are, into another; of a GGUF file
    its metadata.
    """
    if Path(source).suffix == ".gguf":
        GGUFFile.read(source).copy_metadata(target / _GGUF)
        return
    for name in _TOKENIZER_FILES:
        file = Path(source) / name
        if file.is_file():
            shutil.copyfile(file, target / name)


def require_same(path: Path, what: str, saved: Any, mine: Any) -> None:
    """Name the first field that differs, however deep."""
    if saved == mine:
        return
    while isinstance(saved, dict) and isinstance(mine, dict):
        key = next(k for k in sorted({*saved, *mine}) if saved.get(k) != mine.get(k))
        what, saved, mine = f"{what}.{key}", saved.get(key), mine.get(key)
        if saved == mine:
            break
    raise CheckpointError(
        str(path),
        what,
        expected=f"{mine!r}, as this run is configured",
        got=repr(saved),
        remedy="Resume with the configuration that it was saved with, or choose another output.",
    )
