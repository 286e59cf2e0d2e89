"""Everything that defines a pre-training run, as one frozen value that JSON can hold."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..config import MiMoConfig
from ..errors import CheckpointError, ShapeError
from ..training.lora import LoRAConfig
from ..training.optimizer import OptimizerConfig
from ..training.schedule import Schedule
from ..weights.files import read_json
from .heads import Boundary

__all__ = ["EvalConfig", "PretrainConfig", "SaveConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """When and how much to evaluate; ``every`` counts steps, 0 evaluates at the end only.

    rows             held-out rows per corpus for the losses
    prompts, prompt_tokens, new_tokens
                     per corpus for the simulated acceptance length, sampled at temperature 1
    """

    every: int = 0
    rows: int = 16
    prompts: int = 16
    prompt_tokens: int = 32
    new_tokens: int = 96


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """Checkpoints: every so many steps (0: at the end and on SIGTERM only), how many stay."""

    every: int = 0
    keep: int = 2
    asynchronous: bool = False


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A run of ``schedule`` on the token files ``data`` = {corpus: directory}, into ``output``.

    model, init      a configuration to initialise with ``init_std``, or a checkpoint to start from:
                     what ``load`` takes
    mtp_window       give a model without MTP heads one, with a window of so many keys
    mtp_heads        copy the model's one MTP block so often before training; None: as it is
    boundary         what the MTP loss must not train
    mtp_only         train the MTP heads alone, on a frozen trunk
    cache_hidden     with mtp_only: store the trunk's hidden states beside the tokens, once, and
                     train from these
    cut_vocabulary   with mtp_only: train the heads to choose among the tokens that the corpora hold
    vocabulary       with cut_vocabulary and distill: only so many of these, the most frequent ones
    distill          teach the MTP heads so many of the main head's likeliest tokens, with their
                     probabilities, instead of the text's next token; 0: the text
    lora             train adapters of this kind and leave the weights as they are; exported models
                     hold both in one
    dtype            "bfloat16" keeps float32 masters; router and sinks are float32 in any case
    micro_rows       rows per backward pass; it changes no loss, only memory and the last bits
    recompute        keep the layers' inputs only and run them again in the backward pass
    expert_parallel  ranks that share the experts of a layer
    backend          of every op; "reference" is plain torch
    tokenizer        a directory whose tokenizer goes along with exported models
    loads_every      steps between records of every expert's load
    """

    output: str
    data: Mapping[str, str]
    schedule: Schedule
    model: MiMoConfig | None = None
    init: str | None = None
    init_std: float = 0.006
    mtp_window: int | None = None
    mtp_heads: int | None = None
    boundary: Boundary = field(default_factory=Boundary)
    mtp_only: bool = False
    cache_hidden: bool = False
    cut_vocabulary: bool = False
    vocabulary: int | None = None
    distill: int = 0
    lora: LoRAConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_rows: int = 1
    recompute: bool = False
    expert_parallel: int = 1
    backend: Literal["cpu", "cuda", "reference"] | None = None
    seed: int = 0
    tokenizer: str | None = None
    loads_every: int = 10
    save: SaveConfig = field(default_factory=SaveConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", dict(self.data))
        if (self.model is None) == (self.init is None):
            raise ShapeError(
                "PretrainConfig",
                "model, init",
                expected="one of them",
                got=f"{'both' if self.model else 'neither'}",
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ShapeError(
                "PretrainConfig", "dtype", expected="float32 or bfloat16", got=self.dtype
            )
        for name in ("cache_hidden", "cut_vocabulary"):
            if getattr(self, name) and not self.mtp_only:
                raise ShapeError(
                    "PretrainConfig",
                    name,
                    expected="mtp_only beside it: a trained trunk's states and head change",
                    got="a trunk that is trained",
                )
        if self.lora is not None and self.mtp_only:
            raise ShapeError(
                "PretrainConfig", "lora", expected="no mtp_only beside it", got="both: heads alone"
            )
        if self.distill < 0:
            raise ShapeError("PretrainConfig", "distill", expected=">= 0", got=str(self.distill))
        if self.vocabulary is not None and not (
            self.cut_vocabulary and 0 < self.distill <= self.vocabulary
        ):
            raise ShapeError(
                "PretrainConfig",
                "vocabulary",
                expected="cut_vocabulary and distill beside it, and no fewer tokens than distill: "
                "the text's own tokens may lie outside",
                got=f"vocabulary {self.vocabulary}, cut_vocabulary {self.cut_vocabulary}, "
                f"distill {self.distill}",
            )
        for name in ("micro_rows", "expert_parallel", "loads_every"):
            if getattr(self, name) < 1:
                raise ShapeError(
                    "PretrainConfig", name, expected=">= 1", got=str(getattr(self, name))
                )
        missing = {name for stage in self.schedule.stages for name in stage.mixture}
        missing -= set(self.data)
        if missing:
            raise ShapeError(
                "PretrainConfig",
                "data",
                expected=f"the corpora that the mixtures name, {sorted(missing)} among them",
                got=str(sorted(self.data)),
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["model"] = None if self.model is None else self.model.to_dict()
        for name in ("schedule", "boundary", "optimizer", "save", "eval"):
            content[name] = asdict(content[name])
        content["lora"] = None if self.lora is None else asdict(self.lora)
        return json.loads(json.dumps(content))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, where: str = "config") -> "PretrainConfig":
        """The inverse. Raises CheckpointError naming a field that does not exist."""
        content = dict(content)
        parts = {
            "schedule": lambda d: Schedule(tuple(d["stages"]), d.get("lr_start", 0.0)),
            "model": MiMoConfig.from_dict,
            "boundary": lambda d: Boundary(**d),
            "optimizer": lambda d: OptimizerConfig(**d),
            "lora": lambda d: LoRAConfig(**d),
            "save": lambda d: SaveConfig(**d),
            "eval": lambda d: EvalConfig(**d),
        }
        try:
            for name, build in parts.items():
                if content.get(name) is not None:
                    content[name] = build(content[name])
            return cls(**content)
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                where, "fields", expected="those of a pre-training run", got=str(error)
            ) from None

    @classmethod
    def read(cls, path: str | Path) -> "PretrainConfig":
        """From a JSON file."""
        return cls.from_dict(read_json(Path(path)), where=str(path))

    def recipe(self) -> dict[str, Any]:
        """The part that fixes the result: a run may only be resumed where this is the same."""
        content = self.to_dict()
        for name in (*_FREE, "data"):
            del content[name]
        # Later fields, left out at their defaults: checkpoints from before they existed resume.
        for name in (
            "mtp_window",
            "cache_hidden",
            "cut_vocabulary",
            "vocabulary",
            "distill",
            "lora",
        ):
            if not content[name]:
                del content[name]
        return content | {"optimizer": self.optimizer.recipe(), "corpora": sorted(self.data)}


# Fields that may differ between a run and its continuation.
_FREE = (
    "output",
    "micro_rows",
    "recompute",
    "expert_parallel",
    "backend",
    "tokenizer",
    "loads_every",
    "save",
    "eval",
)
