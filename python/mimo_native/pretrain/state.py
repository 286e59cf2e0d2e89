"""A run's model, objective and optimizer, and their way into checkpoints and exports."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ShapeError
from ..nn import MiMoForCausalLM
from ..training.checkpoint import Checkpoints
from ..training.data import TokenFile
from ..training.distributed import Ranks, full_model, shard
from ..training.forward import set_rope_bases
from ..training.optimizer import Optimizer
from ..training.schedule import Stage
from .config import PretrainConfig
from .heads import expand_mtp
from .objective import Objective

__all__ = ["RunState", "build_model"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def build_model(config: PretrainConfig) -> MiMoForCausalLM:
    """Initialised or loaded, expanded to the wanted MTP heads, trainable, in the run's dtype."""
    if config.model is not None:
        model = MiMoForCausalLM(config.model)
        model.init_weights(std=config.init_std, seed=config.seed)
        model.to(_DTYPES[config.dtype])
    else:
        assert config.init is not None
        model = MiMoForCausalLM.from_pretrained(config.init, dtype=_DTYPES[config.dtype]).unpack()
    if config.mtp_heads is not None:
        expand_mtp(model, config.mtp_heads)
    model.requires_grad_(not config.mtp_only)
    model.model.mtp.requires_grad_(True)
    return model


class RunState:
    """What changes while a run goes on: the weights, the optimizer, and the tokens seen."""

    def __init__(
        self, config: PretrainConfig, ranks: Ranks, files: Mapping[str, TokenFile]
    ) -> None:
        self.config, self.ranks = config, ranks
        self.model = build_model(config)
        self._check_corpora(files)
        self.corpora = {name: [len(f), f.documents] for name, f in sorted(files.items())}
        self.objective = Objective(
            self.model,
            boundary=config.boundary,
            mtp_only=config.mtp_only,
            recompute=config.recompute,
        )
        shard(self.objective, self.model, ranks)
        self.optimizer = Optimizer(self.model.named_parameters(), config.optimizer)
        self.step = self.tokens = 0
        self.best: dict[str, float] = {}
        self._stage: Stage | None = None

    def _check_corpora(self, files: Mapping[str, TokenFile]) -> None:
        vocab, heads = self.model.config.vocab_size, self.model.config.num_mtp_layers
        for name, file in files.items():
            if file.vocab_size > vocab:
                raise ShapeError(
                    "pretrain",
                    f"corpus {name!r}",
                    expected=f"token ids in [0, {vocab})",
                    got=f"a vocabulary of {file.vocab_size}",
                    remedy="Prepare it with the tokenizer of this model.",
                )
        longest = max(int((f.offsets[1:] - f.offsets[:-1]).max()) for f in files.values())
        shortest_row = min(stage.seq_len for stage in self.config.schedule.stages)
        if min(longest, shortest_row) < heads + 2:
            raise ShapeError(
                "pretrain",
                "documents, seq_len",
                expected=f"some of at least {heads + 2} tokens, the reach of {heads} MTP heads",
                got=f"documents of at most {longest}, rows of {shortest_row}",
                remedy="Train with fewer MTP heads or longer documents.",
            )

    def enter(self, stage: Stage) -> None:
        """Apply what a stage changes in the model; no effect while it lasts."""
        if stage is not self._stage:
            set_rope_bases(
                self.model, rope_theta=stage.rope_theta, swa_rope_theta=stage.swa_rope_theta
            )
            self._stage = stage

    # ------------------------------------------------------------------ checkpoints

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

    def meta(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "best": self.best,
            "recipe": self.config.recipe(),
            "corpora": self.corpora,
        }

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint. Raises CheckpointError where it is of another recipe."""
        meta = Checkpoints.meta(path)
        for key, mine in (("recipe", self.config.recipe()), ("corpora", self.corpora)):
            _require_same(path, key, meta.get(key), mine)
        state = self.tensors()
        Checkpoints.load(path, state)
        torch.set_rng_state(state["random"]["torch"])
        self.optimizer.publish()
        self.step, self.tokens, self.best = meta["step"], meta["tokens"], meta["best"]

    # ------------------------------------------------------------------ export

    def export(self, directory: Path) -> None:
        """The model as a checkpoint in the hub's layout, with its tokenizer."""
        whole = full_model(self.model, self.ranks)
        if whole is None:
            return
        whole.save_pretrained(directory)
        if self.config.tokenizer is not None:
            for name in _TOKENIZER_FILES:
                source = Path(self.config.tokenizer) / name
                if source.is_file():
                    shutil.copyfile(source, directory / name)


def _require_same(path: Path, what: str, saved: Any, mine: Any) -> None:
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
