"""How the next token is chosen: one frozen value per request."""

import secrets
from dataclasses import dataclass, replace

from ..errors import ShapeError

__all__ = ["PENALTIES", "Sampling"]

PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling controls; the defaults draw from the model's own distribution.

    Order of application: penalties, temperature, top_k, top_p, min_p. temperature 0 is greedy
    (ties: the lowest id). top_k 0, top_p 1, min_p 0 and penalties of 1, 0, 0 are off. The draw at
    a position is a function of (seed, position) alone, so equal seeds give equal text in any
    batch; seed None draws one. ``stop`` strings end the text before they appear in it. Raises
    ShapeError for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        finite = float("inf")
        _check("temperature", self.temperature, 0 <= self.temperature < finite, ">= 0")
        _check("top_k", self.top_k, self.top_k >= 0, ">= 0 (0 = off)")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "in [0, 1]")
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            0 < self.repetition_penalty < finite,
            "> 0",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(name, value, -finite < value < finite, "a finite number")
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, ">= 1")
        seed_ok = self.seed is None or -(2**63) <= self.seed < 2**63
        _check("seed", self.seed, seed_ok, "None or a 64-bit integer")
        _check("stop", self.stop, all(s for s in self.stop), "non-empty strings")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether the choice depends on the tokens before it beyond the model's own context."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def seeded(self) -> "Sampling":
        """The same with a seed, drawn from the system if there is none."""
        return self if self.seed is not None else replace(self, seed=secrets.randbits(63))


def _check(argument: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ShapeError("Sampling", argument, expected=expected, got=repr(value))
