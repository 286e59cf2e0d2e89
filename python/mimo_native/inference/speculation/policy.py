"""Which kind of draft is worth its time, from what rounds have cost and brought so far."""

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["PLAIN", "Policy"]

PLAIN = "plain"
_DECAY = 0.2  # weight of the newest round
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 512  # rounds without an arm that lost
_REFRESH = 64  # rounds after which plain decoding is timed again
# What trying an arm may lose: a share of all time, and so many plain rounds at the start.
_SHARE, _ALLOWANCE = 0.002, 6


@dataclass
class _Arm:
    tokens: float = 0.0  # per round
    seconds: float = 0.0
    rounds: int = 0
    lost: float = 0.0  # seconds beyond what plain decoding would have taken
    pause: int = _FIRST_PAUSE
    resumes: int = 0  # the round from which it may be tried again

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class Policy:
    """A choice per round among arms, "plain" being the one without drafts.

    Every arm is tried, then the fastest in tokens per second is taken. An arm that loses against
    plain decoding rests for a while that doubles each time it loses again, and what trying it has
    lost stays below a small share of the time spent, a few rounds at the start apart.
    """

    arms: dict[str, _Arm] = field(default_factory=dict)
    plain: _Arm = field(default_factory=_Arm)
    round: int = 0
    _plain_at: int = 0
    _seconds: float = 0.0  # spent in all

    def rest(self) -> bool:
        """Whether this round is plain because no known arm pays or may be tried; counts it."""
        if not self.arms or self.round - self._plain_at >= _REFRESH:
            return False
        if any(arm.rate > self.plain.rate or self._due(arm) for arm in self.arms.values()):
            return False
        self.round += 1
        return True

    def choose(self, available: Iterable[str]) -> str:
        """The arm of the next round, among ``available`` and plain."""
        if self.plain.rounds < 2 or self.round - self._plain_at >= _REFRESH:
            return PLAIN
        arms = {name: self.arms.setdefault(name, _Arm()) for name in available}
        best, rate = PLAIN, self.plain.rate
        for name, arm in arms.items():
            if arm.rounds >= 2 and arm.rate > rate:
                best, rate = name, arm.rate
        # Beside an arm that pays, only those are tried that never were.
        due = [
            name
            for name, arm in arms.items()
            if self._due(arm) and (best == PLAIN or arm.rounds < 2)
        ]
        return min(due, key=lambda name: arms[name].rounds >= 2) if due else best

    def record(self, name: str, tokens: float, seconds: float) -> None:
        """What a round with arm ``name`` brought, per row, and took."""
        self.round += 1
        self._seconds += seconds
        arm = self.plain if name == PLAIN else self.arms.setdefault(name, _Arm())
        weight = 1.0 if arm.rounds == 0 else max(_DECAY, 1 / (arm.rounds + 1))
        arm.tokens += weight * (tokens - arm.tokens)
        arm.seconds += weight * (seconds - arm.seconds)
        arm.rounds += 1
        if name == PLAIN:
            self._plain_at = self.round
            return
        if self.plain.rounds:
            arm.lost += max(0.0, seconds - tokens / self.plain.rate)
        if arm.rate < self.plain.rate:
            arm.resumes = self.round + arm.pause
            arm.pause = min(2 * arm.pause, _LONGEST_PAUSE)
        else:
            arm.pause = _FIRST_PAUSE

    def _due(self, arm: _Arm) -> bool:
        affordable = arm.lost <= _SHARE * self._seconds + _ALLOWANCE * self.plain.seconds
        return affordable and arm.resumes <= self.round
