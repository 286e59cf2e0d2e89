"""The recipe as data: stages, and what each step does as a function of the tokens already seen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ShapeError

__all__ = ["Piece", "Schedule", "Stage", "StepPlan"]


@dataclass(frozen=True)
class Piece:
    """A stretch of the learning rate: from where the last one ended to ``end``."""

    shape: Literal["linear", "constant", "cosine"]
    tokens: int
    end: float

    def at(self, start: float, fraction: float) -> float:
        if self.shape == "constant":
            return self.end
        if self.shape == "cosine":
            fraction = (1 - math.cos(math.pi * fraction)) / 2
        return start + (self.end - start) * fraction


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run. A step trains on ``batch`` rows of ``seq_len`` tokens.

    batch_start, batch_ramp_tokens  the batch grows linearly from one to ``batch`` over so many
                                    tokens of the stage
    rope_theta, swa_rope_theta      RoPE bases from here on; None keeps the model's
    mtp_weight                      lambda on the mean of the MTP heads' losses
    bias_rate                       step of the router's balancing bias
    aux_coefficient                 of the sequence-wise balance loss
    mixture                         share of each corpus in the rows
    """

    name: str
    tokens: int
    seq_len: int
    batch: int
    lr: tuple[Piece, ...]
    mixture: Mapping[str, float]
    batch_start: int | None = None
    batch_ramp_tokens: int = 0
    rope_theta: float | None = None
    swa_rope_theta: float | None = None
    mtp_weight: float = 0.3
    bias_rate: float = 1e-3
    aux_coefficient: float = 1e-5

    def __post_init__(self) -> None:
        pieces = tuple(p if isinstance(p, Piece) else Piece(**p) for p in self.lr)
        object.__setattr__(self, "lr", pieces)
        object.__setattr__(self, "mixture", dict(self.mixture))
        _require(self.name, "tokens", self.tokens, self.tokens >= 1, ">= 1")
        _require(self.name, "seq_len", self.seq_len, self.seq_len >= 2, ">= 2")
        _require(self.name, "batch", self.batch, self.batch >= 1, ">= 1")
        start = self.batch_start
        _require(
            self.name, "batch_start", start, start is None or 1 <= start <= self.batch, "1 to batch"
        )
        covered = sum(piece.tokens for piece in pieces)
        _require(self.name, "lr", covered, covered == self.tokens, f"pieces over {self.tokens}")
        for field in ("mtp_weight", "bias_rate", "aux_coefficient"):
            value = getattr(self, field)
            _require(self.name, field, value, value >= 0 and math.isfinite(value), ">= 0")

    @property
    def rows(self) -> int:
        """Sequences in the stage; the tokens are rounded up to whole ones."""
        return -(-self.tokens // self.seq_len)

    def batch_at(self, row: int) -> int:
        """Rows of the step that begins after ``row`` rows of the stage."""
        batch = self.batch
        if self.batch_start is not None and self.batch_ramp_tokens:
            done = min(row * self.seq_len / self.batch_ramp_tokens, 1.0)
            batch = self.batch_start + math.floor((self.batch - self.batch_start) * done)
        return min(batch, self.rows - row)

    def lr_at(self, row: int, start: float) -> float:
        """The rate after ``row`` rows of the stage, ``start`` being that before it."""
        tokens = min(row * self.seq_len, self.tokens)
        for piece in self.lr:
            if tokens <= piece.tokens:
                return piece.at(start, tokens / piece.tokens if piece.tokens else 1.0)
            tokens, start = tokens - piece.tokens, piece.end
        return start


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: rows [row, row + rows) of stage number ``index``, at rate ``lr``."""

    index: int
    stage: Stage
    row: int
    rows: int
    lr: float

    @property
    def tokens(self) -> int:
        return self.rows * self.stage.seq_len


@dataclass(frozen=True)
class Schedule:
    """Stages in order; the learning rate of the first begins at ``lr_start``."""

    stages: tuple[Stage, ...]
    lr_start: float = 0.0

    def __post_init__(self) -> None:
        stages = tuple(s if isinstance(s, Stage) else Stage(**s) for s in self.stages)
        object.__setattr__(self, "stages", stages)
        _require("Schedule", "stages", len(stages), len(stages) >= 1, "at least one")

    @property
    def tokens(self) -> int:
        return sum(stage.rows * stage.seq_len for stage in self.stages)

    def plan(self, tokens: int) -> StepPlan | None:
        """The step to take after ``tokens`` tokens of the whole run; None when it is over.

        The rate is that at the end of the step, so that a warm-up from zero moves at once and a
        decay reaches its end. Raises ShapeError for a count that no sequence of steps reaches.
        """
        start, passed = self.lr_start, tokens
        for index, stage in enumerate(self.stages):
            size = stage.rows * stage.seq_len
            if passed < size:
                row, rest = divmod(passed, stage.seq_len)
                _require("Schedule.plan", "tokens", tokens, rest == 0, "a whole number of rows")
                rows = stage.batch_at(row)
                return StepPlan(index, stage, row, rows, stage.lr_at(row + rows, start))
            passed -= size
            start = stage.lr[-1].end
        return None

    def scaled(self, factor: float, *, seq_len: int, batch: int) -> "Schedule":
        """The same recipe at ``factor`` times the tokens, every stage with ``seq_len`` and
        ``batch`` scaled to the first stage's; rates and weights stay."""
        first = self.stages[0]
        return Schedule(
            tuple(
                _scaled(
                    stage,
                    factor,
                    seq_len=max(2, round(stage.seq_len * seq_len / first.seq_len)),
                    batch=max(1, round(stage.batch * batch / first.batch)),
                    start=max(1, round((stage.batch_start or 1) * batch / first.batch)),
                )
                for stage in self.stages
            ),
            self.lr_start,
        )


def _scaled(stage: Stage, factor: float, *, seq_len: int, batch: int, start: int) -> Stage:
    fields: dict[str, Any] = {name: getattr(stage, name) for name in Stage.__dataclass_fields__}
    pieces = tuple(Piece(p.shape, max(1, round(p.tokens * factor)), p.end) for p in stage.lr)
    fields |= {
        "tokens": sum(piece.tokens for piece in pieces),
        "lr": pieces,
        "seq_len": seq_len,
        "batch": batch,
        "batch_start": None if stage.batch_start is None else start,
        "batch_ramp_tokens": round(stage.batch_ramp_tokens * factor),
    }
    return Stage(**fields)


def _require(where: str, field: str, got: object, ok: bool, expected: str) -> None:
    if not ok:
        raise ShapeError(where, field, expected=expected, got=str(got))
