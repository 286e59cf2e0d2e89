"""Which drafts are worth their time, from what rounds have cost and brought so far."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...backends import native
from .draft import Draft, TreeShape

__all__ = ["LONGEST_MATCH", "Costs", "Plan", "Policy"]

LONGEST_MATCH = 8
_DECAY, _PLAIN_DECAY, _MEAN_DECAY = 0.1, 0.05, 0.02  # weight of the newest round
_MARGIN, _COPY_MARGIN = 1.03, 1.1  # by which drafts must be faster than none
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 512  # rounds without blocks that lost
_TRIES = 3  # after a pause
_REFRESH = 64  # rounds after which plain decoding is timed again
_LOOK = 8  # rounds between looks at a plan that goes well
# What trying blocks may lose: a share of all time, and so many plain rounds at the start.
_SHARE, _ALLOWANCE = 0.003, 6
_COLD = 32  # tokens that the blocks have yet to see, from which a draft takes as long as several
_MEMORY = 0.98  # of the fit of verification's cost, per round
_UNKNOWN_NODE = 0.15  # what a node costs, in passes, before any was timed
_NARROW, _WIDE = TreeShape(), TreeShape(width=4, beam=3, budget=24)


@dataclass(frozen=True)
class Plan:
    """What rounds may draft: so many copied tokens by the length of what matched, where any; else
    a tree from the MTP blocks; or both at once. ``extended``: copied tokens below the deepest path
    of the blocks' tree, by the length of what matches at its end. ``record``: a ``_C.TextRecord``
    that is told what copying would have brought in every round."""

    blocks: TreeShape | None = None
    copied: tuple[int, ...] = ()
    beside: bool = False
    extended: tuple[int, ...] = ()
    record: object | None = None

    @cached_property
    def native(self) -> object:
        """As the native round takes it."""
        shape = self.blocks or TreeShape(width=0, beam=0, budget=0)
        return native("cpu").RoundPlan(
            width=shape.width,
            beam=shape.beam,
            budget=shape.budget,
            least_step=shape.least_step,
            least_node=shape.least_node,
            copied=self.copied,
            beside=self.beside,
            extended=self.extended,
            record=self.record,
        )


@dataclass
class _Arm:
    tokens: float = 0.0  # per round, of all rows
    seconds: float = 0.0
    rounds: int = 0
    pause: int = _FIRST_PAUSE
    resumes: int = 0  # the round from which it may be tried again
    tries: int = 0  # since then

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
        """0 until passes of several widths have been timed."""
        w, n, nn, t, nt = self._sums
        spread = w * nn - n * n
        return max(0.0, (w * nt - n * t) / spread) if spread > 1e-6 * nn * w else 0.0


@dataclass
class Policy:
    """What the next rounds draft, so that a token takes the least time.

    Every kind of draft is judged by the seconds that a round with it saves, tokens being worth
    what they take on average. What copied text would bring is known without copying: every round
    compares it with what was drawn. Blocks have to be tried; where they lose they rest for a while
    that doubles each time, and what trying has lost stays below a small share of the time spent, a
    few rounds at the start apart. ``plan`` changes only when something has been learnt.
    """

    blocks: bool  # whether there are any
    rows: int = 1  # of every round
    plain: _Arm = field(default_factory=_Arm)
    arms: dict[int, _Arm] = field(default_factory=dict)  # of the blocks, by surprise
    costs: Costs = field(default_factory=Costs)
    text: Any = field(default_factory=lambda: native("cpu").TextRecord())
    # Of copied tokens below a drafted path: the share accepted, by the length of what matched; and
    # the share of paths accepted whole.
    tails: list[float] = field(default_factory=lambda: [0.8] * (LONGEST_MATCH + 1))
    whole: float = 0.8
    round: int = 0
    plan: Plan = field(init=False)
    _mean: _Arm = field(default_factory=_Arm)  # of all rounds
    _plain_at: int = 0
    _revise_at: int = 2  # the round when time alone may change the plan
    _credit: float = 0.0  # seconds that trying may still lose
    _unseen: float = _COLD + 1  # tokens that the blocks have yet to see
    level: int = 0  # how hard the text is: which experience counts

    def __post_init__(self) -> None:
        self.plan = Plan(record=self.text)

    @property
    def warm(self) -> bool:
        return self._unseen <= _COLD

    def record_plain(self, seconds: float, rounds: int = 1) -> None:
        """Rounds in which nothing was drafted, and how long one of them took."""
        self.round += rounds
        self._plain_at = self.round
        self._unseen += rounds
        if self.plain.rounds == 0:
            self._credit = _ALLOWANCE * seconds
        self._credit += _SHARE * seconds * rounds
        self.plain.add(self.rows, seconds, _PLAIN_DECAY)
        self._mean.add(self.rows, seconds, min(0.5, _MEAN_DECAY * rounds))
        if self._moved() or self.round >= self._revise_at:
            self._revise()

    def record(self, tokens: float, seconds: float, *, steps: int, nodes: int) -> None:
        """A round with drafts, of so many blocks or copied only, verified as so many nodes: all
        its tokens, and how long it took."""
        self.round += 1
        self._mean.add(tokens, seconds, _MEAN_DECAY)
        level, warm = self.level, self.warm
        self._unseen = tokens / self.rows + (0.0 if steps else self._unseen)
        look = self._moved() or self.round >= self._revise_at
        if steps:
            gain = tokens * self.plain.seconds / self.rows - seconds
            self._credit = min(self._credit + gain, _ALLOWANCE * self.plain.seconds)
            if not warm and self.costs.step:  # what it took is that of many rounds
                drafting = steps * self.costs.step + nodes * self._node()
                seconds = min(seconds, self.plain.seconds + drafting)
            if warm or self.costs.step:
                look |= self._record_blocks(self._arm(level), tokens, seconds)
        if look:
            self._revise()

    def _record_blocks(self, arm: _Arm, tokens: float, seconds: float) -> bool:
        """Whether the plan should be looked at."""
        arm.add(tokens, seconds, _DECAY)
        arm.tries += 1
        if self._gain(arm) >= self._gain(self.plain):
            arm.pause = _FIRST_PAUSE
            return arm.rounds <= _LOOK
        if arm.tries >= _TRIES or self._credit <= 0:
            arm.resumes = self.round + arm.pause
            if arm.pause >= _REFRESH:  # then, what was long ago counts as little as what comes next
                arm.rounds = 1
            arm.pause, arm.tries = min(2 * arm.pause, _LONGEST_PAUSE), 0
        return True

    def record_tail(self, draft: Draft, accepted: int) -> None:
        """How many tokens of a path that ends in copied ones were accepted."""
        beyond = accepted - (draft.deepest - draft.copied)
        self.whole += _DECAY * ((beyond >= 0) - self.whole)
        if beyond >= 0:
            share = beyond / min(beyond + 1, draft.copied)
            self.tails[draft.extended] += _DECAY * (share - self.tails[draft.extended])

    def _moved(self) -> bool:
        """Whether the text has become so much harder or easier that other experience counts."""
        level = self.text.level
        moved, self.level = level != self.level, level
        return moved

    def _arm(self, level: int) -> _Arm:
        return self.arms.setdefault(level, _Arm())

    def _value(self) -> float:
        """Seconds that a token takes on average."""
        return self._mean.seconds / self._mean.tokens if self._mean.rounds > 1 else 0.0

    def _node(self) -> float:
        return self.costs.node or _UNKNOWN_NODE * self.plain.seconds / self.rows

    def _gain(self, arm: _Arm) -> float:
        """Seconds that a round with this arm saves against drawing its tokens at the mean rate;
        blocks must save a margin more than plain decoding."""
        margin = 1.0 if arm is self.plain else _MARGIN
        return arm.tokens * self._value() - arm.seconds * margin

    def _revise(self) -> None:
        """Make the next plan, and say when time alone may change it."""
        if self.round - self._plain_at >= _REFRESH or self.plain.rounds < 2:
            self.plan, self._revise_at = Plan(record=self.text), self.round + 1
            return
        self._revise_at = self.round + _LOOK
        best, blocks, extended = self._gain(self.plain), None, ()
        if self.blocks and self._wants_blocks():
            blocks, extended = self._tree(), self._extensions()
            if (arm := self._arm(self.level)).rounds > 1:
                best = max(best, self._gain(arm))
        copied = self._copies(best)
        plan = Plan(blocks, copied, extended=extended, record=self.text)
        if plan != self.plan:  # which the native rounds have in their form
            self.plan = plan

    def _wants_blocks(self) -> bool:
        """Whether blocks are faster than plain decoding, or may be tried again."""
        arm = self._arm(self.level)
        if arm.rounds > 1 and self._gain(arm) > self._gain(self.plain):
            return True
        if arm.resumes > self.round:
            self._revise_at = min(self._revise_at, arm.resumes)
            return False
        return self._credit > 0

    def _tree(self) -> TreeShape:
        """Bounds at which a node, and a further block, save the time they take."""
        value, node = self._value(), self._node()
        least = min(1.0, node / value) if value else 0.0
        step = min(1.0, (node + self.costs.step) / value) if value else 0.0
        # Where second choices can never be worth a node, none are looked for.
        shape = _NARROW if least > 0.5 else _WIDE
        return TreeShape(
            shape.width,
            shape.beam,
            shape.budget,
            math.log(step) if step else -math.inf,
            math.log(least) if least else -math.inf,
        )

    def _copies(self, best: float) -> tuple[int, ...]:
        """Tokens to copy by the length of what matched, where that saves more than ``best``."""
        value = self._value()
        plain = self.rows * value - self.plain.seconds * _COPY_MARGIN
        lengths = self.text.lengths(value=value, node=self._node(), plain=plain, best=best)
        return tuple(lengths) if any(lengths) else ()

    def _extensions(self) -> tuple[int, ...]:
        """The same below a drafted path, by what matches at its end."""
        worth, value, node = self.text.worthwhile, self._value(), self._node()
        lengths = [
            worth(first=self.whole * hits, after=hits, value=value, node=node)[0]
            for hits in self.tails[2:]
        ]
        return (0, 0, *lengths) if any(lengths) else ()
