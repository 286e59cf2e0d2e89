"""Which drafts are worth their time, from what rounds have cost and brought so far."""

import math
from dataclasses import dataclass, field

from .draft import TreeShape

__all__ = ["BLOCKS", "LONGEST_MATCH", "PLAIN", "Costs", "Plan", "Policy"]

PLAIN, BLOCKS = -1, 0  # arms; the others are the lengths of what matched before copied text
LONGEST_MATCH = 8
_DECAY, _PLAIN_DECAY = 0.1, 0.05  # weight of the newest round
_MARGIN = 1.03  # by which an arm must be faster than another
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 512  # rounds without an arm that lost
_REFRESH = 64  # rounds after which plain decoding is timed again
# What trying arms may lose: a share of all time, and so many plain rounds at the start.
_SHARE, _ALLOWANCE = 0.003, 10
_MEMORY = 0.98  # of the fit of verification's cost, per round
_LONGEST_COPY = 32
_CERTAIN = 0.98  # no copied token counts as likelier
_NARROW, _WIDE = TreeShape(), TreeShape(width=4, beam=3, budget=24)


@dataclass(frozen=True)
class Plan:
    """What rounds may draft: so many copied tokens by the length of what matched, where any; else
    a tree from the MTP blocks; or both at once."""

    blocks: TreeShape | None = None
    copied: tuple[int, ...] = ()
    beside: bool = False


@dataclass
class _Arm:
    tokens: float = 0.0  # per round
    seconds: float = 0.0
    rounds: int = 0
    hits: float = 0.8  # share of drafted tokens accepted, of those whose parent was
    pause: int = _FIRST_PAUSE
    resumes: int = 0  # the round from which it may be tried again

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def add(self, tokens: float, seconds: float, decay: float) -> None:
        weight = max(decay, 1 / (self.rounds + 1))
        if self.rounds:
            seconds = min(seconds, 3 * self.seconds)  # an interruption says nothing
        self.tokens += weight * (tokens - self.tokens)
        self.seconds += weight * (seconds - self.seconds)
        self.rounds += 1


@dataclass
class Costs:
    """What a node adds to a pass, and what a block adds to a draft: in seconds, measured.

    A pass over n nodes is fitted by a line, in which later rounds weigh more.
    """

    step: float = 0.0
    _sums: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def record(self, nodes: int, verify: float, steps: int, draft: float) -> None:
        """A pass over ``nodes``, and a draft by ``steps`` blocks."""
        w, n, nn, t, nt = (s * _MEMORY for s in self._sums)
        if w:  # an interrupted pass says nothing
            verify = min(verify, 3 * t / w * max(1.0, nodes * w / n))
        self._sums = w + 1, n + nodes, nn + nodes * nodes, t + verify, nt + nodes * verify
        if steps:
            each = draft / steps
            if not self.step:
                self.step = each
            self.step += _DECAY * (min(each, 3 * self.step) - self.step)

    @property
    def node(self) -> float:
        w, n, nn, t, nt = self._sums
        spread = w * nn - n * n
        return max(0.0, (w * nt - n * t) / spread) if spread > 1e-6 * nn * w else 0.0


@dataclass
class Policy:
    """What the next rounds draft, so that a token takes the least time.

    Copied text and the blocks are arms, each of which is tried. One that is faster than plain
    decoding is used where it applies; one that loses rests for a while that doubles each time it
    loses again. What trying has lost stays below a small share of the time spent, a few rounds at
    the start apart. ``plan`` changes only when something has been learnt.
    """

    blocks: bool  # whether there are any
    plan: Plan = Plan()
    plain: _Arm = field(default_factory=_Arm)
    arms: dict[int, _Arm] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    round: int = 0
    _plain_at: int = 0
    _revise_at: int = 2  # the round when time alone may change the plan
    _credit: float = 0.0  # seconds that trying may still lose
    warm: bool = False  # whether the blocks have seen all but the newest tokens

    def record_plain(self, seconds: float) -> None:
        """A round in which nothing was drafted."""
        self.round += 1
        self._plain_at, self.warm = self.round, False
        if self.plain.rounds == 0:
            self._credit = _ALLOWANCE * seconds
        self._credit += _SHARE * seconds
        self.plain.add(1.0, seconds, _PLAIN_DECAY)
        if self.round >= self._revise_at:
            self._revise()

    def record(self, name: int, tokens: float, seconds: float, drafted: float) -> None:
        """A round with drafts of arm ``name`` that were ``drafted`` deep: tokens per row, and how
        long it took."""
        self.round += 1
        gain = tokens * self.plain.seconds - seconds
        self._credit = min(self._credit + gain, _ALLOWANCE * self.plain.seconds)
        cold, self.warm = name == BLOCKS and not self.warm, name == BLOCKS
        if cold:  # what it took is that of many rounds
            self._revise()
            return
        arm = self.arms.setdefault(name, _Arm())
        arm.add(tokens, seconds, _DECAY)
        tried = min(tokens, drafted)
        arm.hits += _DECAY * ((tokens - 1) / tried - arm.hits) if tried > 0 else 0.0
        if arm.rate < self.plain.rate * _MARGIN:
            arm.resumes = self.round + arm.pause
            arm.pause = min(2 * arm.pause, _LONGEST_PAUSE)
        else:
            arm.pause = _FIRST_PAUSE
        self._revise()

    def _revise(self) -> None:
        """Make the next plan, and say when time alone may change it."""
        if self.round - self._plain_at >= _REFRESH or self.plain.rounds < 2:
            self.plan, self._revise_at = Plan(), self.round + 1
            return
        best, self._revise_at = self.plain.rate, self.round + _REFRESH
        blocks = None
        if self.blocks and self._wanted(BLOCKS, best):
            blocks = self._tree()
            if (arm := self.arms.get(BLOCKS)) is not None and arm.rounds > 1:
                best = max(best, arm.rate)
        copied = [0, 0]
        for size in range(2, LONGEST_MATCH + 1):
            copied.append(self._copy_length(size) if self._wanted(size, best) else 0)
        self.plan = Plan(blocks, tuple(copied) if any(copied) else ())

    def _wanted(self, name: int, rate: float) -> bool:
        """Whether an arm is faster than ``rate``, or may be tried again."""
        arm = self.arms.setdefault(name, _Arm())
        if arm.rounds > 1 and arm.rate > rate * _MARGIN:
            return True
        if arm.rounds > 1 and arm.rate > self.plain.rate * _MARGIN:
            return False  # known, and worse than another
        if arm.resumes > self.round:
            self._revise_at = min(self._revise_at, arm.resumes)
            return False
        return self._credit > 0

    def _tree(self) -> TreeShape:
        """Bounds at which a node, and a further block, save the time they take."""
        value = self._value()
        node = min(1.0, self.costs.node / value) if value else 0.0
        step = min(1.0, (self.costs.node + self.costs.step) / value) if value else 0.0
        # Where second choices can never be worth a node, none are looked for.
        shape = _NARROW if node > 0.5 else _WIDE
        return TreeShape(
            shape.width,
            shape.beam,
            shape.budget,
            math.log(step) if step else -math.inf,
            math.log(node) if node else -math.inf,
        )

    def _copy_length(self, size: int) -> int:
        """Copied tokens that are worth verifying, from the arm's hits."""
        hits, value = min(self.arms[size].hits, _CERTAIN), self._value()
        bound = self.costs.node / value if value else 0.0
        if hits <= bound:
            return 1
        return min(_LONGEST_COPY, int(math.log(bound) / math.log(hits))) if bound else _LONGEST_COPY

    def _value(self) -> float:
        """Seconds that a token takes at the best rate known."""
        rates = [a.rate for a in (self.plain, *self.arms.values()) if a.rounds > 1]
        return 1 / max(rates) if rates else 0.0
