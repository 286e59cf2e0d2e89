"""Everything that defines a post-training run, as frozen values that JSON can hold."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ..errors import CheckpointError, ShapeError, UnsupportedError
from ..pretrain.config import SaveConfig
from ..training.lora import LoRAConfig
from ..training.optimizer import OptimizerConfig
from ..weights.files import read_json

__all__ = ["Domain", "LossConfig", "MopdConfig", "PostConfig", "ScoreConfig", "SftConfig"]

Form = Literal["sampled", "full", "top_k"]
Mismatch = Literal["icepop", "truncate", "none"]
Normalise = Literal["sequence", "token"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Equations 5 to 9 of the report and their variants. Values that it does not give are ours.

    form            "sampled": the gap of the sampled token as its advantage (equation 8);
                    "full": reverse KL over the vocabulary; "top_k": over the teacher's ``top_k``
                    ids with a ``correction``, "mass" or "tail", as in ops.linear_reverse_kl
    alpha           weight of the outcome advantage (equation 9); 0 leaves it out [ours]
    mismatch        what pi / mu does: "icepop" weighs a token by it inside [ratio_low, ratio_high]
                    and drops the token outside (equation 7), "truncate" clamps it there,
                    "none" ignores it. Bounds are ours
    advantage_clip  bound of the gap's absolute value, None for none [ours]
    normalise       "sequence": mean over a sequence's tokens, then over sequences (equation 5);
                    "token": mean over all tokens
    """

    form: Form = "sampled"
    top_k: int = 64
    correction: Literal["mass", "tail"] | None = "mass"
    alpha: float = 0.0
    mismatch: Mismatch = "icepop"
    ratio_low: float = 0.5
    ratio_high: float = 5.0
    advantage_clip: float | None = 5.0
    normalise: Normalise = "sequence"

    def __post_init__(self) -> None:
        for name, kind in (("form", Form), ("mismatch", Mismatch), ("normalise", Normalise)):
            _one_of("LossConfig", name, getattr(self, name), get_args(kind))
        if self.form == "top_k" and self.correction is None:
            raise UnsupportedError(
                "LossConfig",
                ["reverse KL over the teacher's top k alone collapses: mass leaves the k ids"],
                remedy='Choose correction="mass" or "tail".',
            )
        if not 0 <= self.ratio_low <= 1 <= self.ratio_high:
            raise ShapeError(
                "LossConfig",
                "ratio_low, ratio_high",
                expected="0 <= ratio_low <= 1 <= ratio_high",
                got=f"{self.ratio_low}, {self.ratio_high}",
            )
        if self.alpha < 0 or (self.advantage_clip is not None and self.advantage_clip <= 0):
            raise ShapeError(
                "LossConfig",
                "alpha, advantage_clip",
                expected="alpha >= 0, advantage_clip > 0 or None",
                got=f"{self.alpha}, {self.advantage_clip}",
            )


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Prompts of one kind, who teaches them and what rewards them.

    prompts   a JSONL file, a line {"prompt": text or token ids, "answer": text or ids}
    teacher   a name among the run's teachers, "self" (the model it starts from), or None
    reward    a built-in verifier ("exact", "arithmetic", "unit_tests") or a name given to ``run``;
              None for none
    weight    its share of every step's prompts
    heldout   prompts of the same form to score, never trained on
    """

    prompts: str
    teacher: str | None = None
    reward: str | None = None
    weight: float = 1.0
    heldout: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """When and how to score held-out prompts; ``every`` counts steps, 0 scores at the end only.

    prompts: at most so many per domain, each sampled once at the run's temperature.
    """

    every: int = 0
    prompts: int = 256


@dataclass(frozen=True, kw_only=True)
class PostConfig:
    """What every post-training run has: a model to start from, prompts by domain, and steps.

    init             checkpoint to start from, with its tokenizer if prompts are text
    prompts_per_step shared out among the domains by their weights, exactly the same in every step
    max_new_tokens   longest answer; a longer prompt than the cache and position range raises
    lr               rises linearly over ``warmup`` steps, and falls to 0 over the last ``cooldown``
    lora             train adapters of this kind and leave the weights as they are
    dtype            "bfloat16" keeps float32 masters
    micro_tokens     tokens of a backward pass; it changes only memory and the last bits
    bias_rate        of the balancing bias
    """

    output: str
    init: str
    domains: Mapping[str, Domain]
    steps: int
    prompts_per_step: int
    lr: float
    warmup: int = 0
    cooldown: int = 0
    max_new_tokens: int = 256
    temperature: float = 1.0
    lora: LoRAConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    micro_tokens: int = 8192
    recompute: bool = False
    bias_rate: float = 0.0
    expert_parallel: int = 1
    backend: Literal["cpu", "cuda", "reference"] | None = None
    seed: int = 0
    save: SaveConfig = field(default_factory=SaveConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", dict(self.domains))
        if not self.domains or not all(d.weight > 0 for d in self.domains.values()):
            raise ShapeError(
                type(self).__name__,
                "domains",
                expected="at least one, each of a positive weight",
                got=str({name: d.weight for name, d in self.domains.items()}),
            )
        least = {"steps": 1, "prompts_per_step": 1, "max_new_tokens": 1, "micro_tokens": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                got = str(getattr(self, name))
                raise ShapeError(type(self).__name__, name, expected=f">= {low}", got=got)
        for name, why in (("temperature", ": the policy is what is sampled"), ("lr", "")):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ShapeError(
                    type(self).__name__, name, expected=f"a number > 0{why}", got=str(value)
                )
        _one_of(type(self).__name__, "dtype", self.dtype, ("float32", "bfloat16"))

    def learning_rate(self, step: int) -> float:
        """Of 0-based ``step``."""
        left = (self.steps - step) / (self.cooldown + 1)
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1), left)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(
        cls: "type[Config]", content: Mapping[str, Any], *, where: str = "config"
    ) -> "Config":
        """The inverse. Raises CheckpointError naming a field that does not exist."""
        content = dict(content)
        parts = {
            "lora": LoRAConfig,
            "optimizer": OptimizerConfig,
            "save": SaveConfig,
            "score": ScoreConfig,
            "loss": LossConfig,
        }
        try:
            for name, kind in parts.items():
                if content.get(name) is not None:
                    content[name] = kind(**content[name])
            content["domains"] = {n: Domain(**d) for n, d in content["domains"].items()}
            return cls(**content)
        except (ShapeError, UnsupportedError):
            raise
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise CheckpointError(
                where, "fields", expected=f"those of {cls.__name__}", got=str(error)
            ) from None

    @classmethod
    def read(cls: "type[Config]", path: str | Path) -> "Config":
        """From a JSON file."""
        return cls.from_dict(read_json(Path(path)), where=str(path))

    def recipe(self) -> dict[str, Any]:
        """The part that fixes the result: a run may only be resumed where this is the same."""
        content = self.to_dict() | {"optimizer": self.optimizer.recipe()}
        if self.lora is None:
            del content["lora"]  # checkpoints from before adapters resume
        return {name: content[name] for name in content if name not in _FREE}


Config = TypeVar("Config", bound=PostConfig)

# Fields that may differ between a run and its continuation.
_FREE = ("output", "init", "steps", "micro_tokens", "recompute", "expert_parallel", "backend")
_FREE += ("save", "score", "domains", "teachers")


@dataclass(frozen=True, kw_only=True)
class SftConfig(PostConfig):
    """Supervised fine-tuning on prompts with answers: the answers alone are learned.

    ``Domain.teacher`` and ``reward`` play no part. epochs follow from the number of steps.
    """


@dataclass(frozen=True, kw_only=True)
class MopdConfig(PostConfig):
    """On-policy training: multi-teacher distillation, outcome rewards (GRPO), or both.

    teachers             {name: checkpoint, or adapter of the model at init}; a domain without a
                         teacher learns from rewards alone
    rollouts_per_prompt  the group that outcome advantages compare
    rollout_batch        sequences that are sampled at once
    rollout_format       a weight format of the sampler, such as "int8_row"; None: the same weights
    speculative          how the sampler drafts, as in ``generate``; the samples are the same
    replay               the training pass uses the experts that the sampler chose (R3)
    mtp_weight           online training of the MTP heads on the rollouts, apart from the policy
    on_bad               a reward that raises or is no number, a prompt that is too long: "raise",
                         or "skip" it and count it
    """

    teachers: Mapping[str, str] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    rollouts_per_prompt: int = 1
    rollout_batch: int = 64
    rollout_format: str | None = None
    speculative: Literal["chain", "tree", "auto"] | None = None
    replay: bool = True
    mtp_weight: float = 0.0
    on_bad: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "teachers", dict(self.teachers))
        _one_of("MopdConfig", "on_bad", self.on_bad, ("raise", "skip"))
        for name in ("rollouts_per_prompt", "rollout_batch"):
            if getattr(self, name) < 1:
                got = str(getattr(self, name))
                raise ShapeError("MopdConfig", name, expected=">= 1", got=got)
        for name, domain in self.domains.items():
            self._check_domain(name, domain)
        if self.loss.alpha and self.rollouts_per_prompt == 1:
            raise ShapeError(
                "MopdConfig",
                "rollouts_per_prompt",
                expected="at least 2 with alpha > 0: an outcome is compared within its group",
                got="1",
            )

    def _check_domain(self, name: str, domain: Domain) -> None:
        known = {*self.teachers, "self", None}
        if domain.teacher not in known or "self" in self.teachers:
            raise ShapeError(
                "MopdConfig",
                f"domain {name!r}: teacher",
                expected=f'one of {sorted(self.teachers)}, "self" (the model at init) or none',
                got=repr(domain.teacher),
            )
        if domain.teacher is None and not (self.loss.alpha and domain.reward):
            raise ShapeError(
                "MopdConfig",
                f"domain {name!r}",
                expected="a teacher, or a reward and alpha > 0",
                got=f"teacher None, reward {domain.reward!r}, alpha {self.loss.alpha}",
            )


def _one_of(op: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ShapeError(op, name, expected=f"one of {allowed}", got=repr(value))
