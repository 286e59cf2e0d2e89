"""What a pre-training run keeps: the trainer's state, the stage, and the tokens seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError, UnsupportedError
from ..nn import MiMoForCausalLM
from ..training.checkpoint import Checkpoints
from ..training.data import TokenFile
from ..training.distributed import Ranks
from ..training.forward import set_rope_bases
from ..training.lora import attach_lora
from ..training.schedule import Stage
from ..training.state import TrainState, require_same
from ..weights.resolve import resolve_model
from .config import PretrainConfig
from .heads import attach_mtp, expand_mtp
from .objective import Objective

__all__ = ["RunState", "build_model"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_model(config: PretrainConfig) -> MiMoForCausalLM:
    """Initialised or loaded, expanded to the wanted MTP heads, trainable, in the run's dtype."""
    if config.model is not None:
        model = MiMoForCausalLM(config.model)
        model.init_weights(std=config.init_std, seed=config.seed)
        model.to(_DTYPES[config.dtype])
    else:
        assert config.init is not None
        path = resolve_model(config.init)
        model = MiMoForCausalLM.from_pretrained(path, dtype=_DTYPES[config.dtype]).unpack()
    if config.mtp_window is not None:
        attach_mtp(model, window_keys=config.mtp_window)
    if config.mtp_heads is not None:
        expand_mtp(model, config.mtp_heads)
    model.requires_grad_(not config.mtp_only)
    model.model.mtp.requires_grad_(True)
    if config.lora is not None:
        attach_lora(model, config.lora, seed=config.seed)
    return model


class RunState(TrainState):
    """What changes while a run goes on: the weights, the optimizer, and the tokens seen."""

    def __init__(
        self, config: PretrainConfig, ranks: Ranks, files: Mapping[str, TokenFile]
    ) -> None:
        self.config = config
        if config.lora is not None and ranks.world > 1:
            raise UnsupportedError("pretrain", ["adapters with several processes"])
        model = build_model(config)
        _check_corpora(config, model, files)
        self.corpora = {name: [len(f), f.documents] for name, f in sorted(files.items())}
        objective = Objective(
            model,
            boundary=config.boundary,
            mtp_only=config.mtp_only,
            recompute=config.recompute,
            vocabulary=_vocabulary(files, config.vocabulary) if config.cut_vocabulary else None,
            distill=config.distill,
        )
        super().__init__(model, objective, config.optimizer, ranks)
        self.tokens = 0
        self.best: dict[str, float] = {}
        self._stage: Stage | None = None

    def enter(self, stage: Stage) -> None:
        """Apply what a stage changes in the model; no effect while it lasts."""
        if stage is not self._stage:
            set_rope_bases(
                self.model, rope_theta=stage.rope_theta, swa_rope_theta=stage.swa_rope_theta
            )
            self._stage = stage

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
            require_same(path, key, meta.get(key), mine)
        self.load(path)
        self.step, self.tokens, self.best = meta["step"], meta["tokens"], meta["best"]


def _check_corpora(
    config: PretrainConfig, model: MiMoForCausalLM, files: Mapping[str, TokenFile]
) -> None:
    vocab, heads = model.config.vocab_size, model.config.num_mtp_layers
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
    shortest_row = min(stage.seq_len for stage in config.schedule.stages)
    if min(longest, shortest_row) < heads + 2:
        raise ShapeError(
            "pretrain",
            "documents, seq_len",
            expected=f"some of at least {heads + 2} tokens, the reach of {heads} MTP heads",
            got=f"documents of at most {longest}, rows of {shortest_row}",
            remedy="Train with fewer MTP heads or longer documents.",
        )


def _vocabulary(files: Mapping[str, TokenFile], most: int | None) -> Tensor:
    """The tokens that occur, ascending: all, or the ``most`` frequent ones, lower ids first."""
    counts = np.zeros(1 + max(int(f.tokens.max()) for f in files.values()), np.int64)
    for file in files.values():
        mine = np.bincount(file.tokens)
        counts[: len(mine)] += mine
    found = np.flatnonzero(counts)
    if most is not None:
        found = np.sort(found[np.argsort(-counts[found], kind="stable")[:most]])
    return torch.from_numpy(found)
