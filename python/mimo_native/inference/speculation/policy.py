"""Which kind of draft is worth its time, from what rounds have cost and brought so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["PLAIN", "Policy"]

PLAIN = "plain"
_DECAY = 0.2  # weight of the newest round
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 512  # rounds without an arm that lost
_REFRESH = 64  # rounds after which plain decoding is timed again


@dataclass
class _Arm:
    tokens: float = 0.0
    seconds: float = 0.0
    rounds: int = 0
    pause: int = _FIRST_PAUSE
    resumes: int = 0  # the round from which it may be tried again

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class Policy:
    """A choice per round among arms, "plain" being the one without drafts.

    Every arm is tried, then the fastest in tokens per second is taken. An arm that loses against
    plain decoding rests for a while that doubles each time it loses again, so what exploring costs
    goes to zero on text that cannot be drafted.
    """

    arms: dict[str, _Arm] = field(default_factory=lambda: {PLAIN: _Arm()})
    round: int = 0
    _plain_at: int = 0

    def choose(self, available: Iterable[str]) -> str:
        """The arm of the next round, among ``available`` and plain."""
        plain = self.arms[PLAIN]
        if plain.rounds < 2 or self.round - self._plain_at >= _REFRESH:
            return PLAIN
        arms = {name: self.arms.setdefault(name, _Arm()) for name in available}
        for name, arm in arms.items():
            if arm.rounds < 2 and arm.resumes <= self.round:
                return name
        best, rate = PLAIN, plain.rate
        for name, arm in arms.items():
            if arm.rate > rate:
                best, rate = name, arm.rate
        if best == PLAIN:
            for name, arm in arms.items():
                if arm.resumes <= self.round:
                    return name
        return best

    def record(self, name: str, tokens: float, seconds: float) -> None:
        """What a round with arm ``name`` brought, per row, and took."""
        self.round += 1
        arm = self.arms.setdefault(name, _Arm())
        weight = 1.0 if arm.rounds == 0 else max(_DECAY, 1 / (arm.rounds + 1))
        arm.tokens += weight * (tokens - arm.tokens)
        arm.seconds += weight * (seconds - arm.seconds)
        arm.rounds += 1
        if name == PLAIN:
            self._plain_at = self.round
        elif arm.rate < self.arms[PLAIN].rate:
            arm.resumes = self.round + arm.pause
            arm.pause = min(2 * arm.pause, _LONGEST_PAUSE)
        else:
            arm.pause = _FIRST_PAUSE
