"""Which drafts are worth their time, from what rounds have cost and brought so far."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from ...backends import native
from .draft import Draft, TreeShape

__all__ = ["BLOCKS", "LONGEST_MATCH", "PLAIN", "Costs", "Plan", "Policy"]

# Arms; the others are the lengths of what matched before copied text.
PLAIN, BLOCKS = -1, 0
LONGEST_MATCH = 8
_DECAY, _PLAIN_DECAY = 0.1, 0.05  # weight of the newest round
_MARGIN = 1.03  # by which an arm must be faster than another
_FIRST_PAUSE, _LONGEST_PAUSE = 8, 512  # rounds without an arm that lost
_REFRESH = 64  # rounds after which plain decoding is timed again
_LOOK = 8  # rounds between looks at a plan that goes well
_VALUE_DECAY = 0.02
# Text that the model finds hard is drafted as badly. How hard the last tokens were, in nats, says
# which experience with the blocks counts.
_SURPRISE_DECAY, _SURPRISES = 0.1, (0.35, 1.2)
_COLD = 32  # tokens that the blocks have yet to see, from which a draft takes as long as several
# What trying arms may lose: a share of all time, and so many plain rounds at the start.
_SHARE, _ALLOWANCE = 0.003, 10
_MEMORY = 0.98  # of the fit of verification's cost, per round
_LONGEST_COPY, _UNTRIED_COPY = 32, 6
_CERTAIN = 0.98  # no copied token counts as likelier
_NARROW, _WIDE = TreeShape(), TreeShape(width=4, beam=3, budget=24)


@dataclass(frozen=True)
class Plan:
    """What rounds may draft: so many copied tokens by the length of what matched, where any; else
    a tree from the MTP blocks; or both at once. ``extended``: copied tokens below the deepest path
    of the blocks' tree, by the length of what matches at its end."""

    blocks: TreeShape | None = None
    copied: tuple[int, ...] = ()
    beside: bool = False
    extended: tuple[int, ...] = ()

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
        )


@dataclass
class _Arm:
    tokens: float = 0.0  # per round
    seconds: float = 0.0
    rounds: int = 0
    hits: float = 0.8  # share of drafted tokens accepted, of those whose parent was
    pause: int = _FIRST_PAUSE
    resumes: int = 0  # the round from which it may be tried again

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
    def known(self) -> bool:
        """Whether passes of several widths have been timed."""
        return self.node > 0.0 or self._sums[0] > 8

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
    # Of copied tokens below a drafted path: the share accepted, by the length of what matched; and
    # the share of paths accepted whole.
    tails: list[float] = field(default_factory=lambda: [0.8] * (LONGEST_MATCH + 1))
    whole: float = 0.8
    round: int = 0
    _mean: _Arm = field(default_factory=_Arm)  # of all rounds
    _plain_at: int = 0
    _revise_at: int = 2  # the round when time alone may change the plan
    _look_at: int = 0
    _credit: float = 0.0  # seconds that trying may still lose
    _unseen: float = _COLD + 1  # tokens that the blocks have yet to see
    _surprise: float = 0.0
    _blocks: int = BLOCKS  # the blocks' arm at that surprise

    @property
    def warm(self) -> bool:
        return self._unseen <= _COLD

    def record_plain(self, seconds: float, logprob: float = 0.0, rounds: int = 1) -> None:
        """Rounds in which nothing was drafted: how long one took, and the mean log-probability of
        what was drawn."""
        self.round += rounds
        self._plain_at = self.round
        self._unseen += rounds
        if self.plain.rounds == 0:
            self._credit = _ALLOWANCE * seconds
        self._credit += _SHARE * seconds * rounds
        self.plain.add(1.0, seconds, _PLAIN_DECAY * rounds)
        self._mean.add(1.0, seconds, _VALUE_DECAY * rounds)
        if self._moved(rounds, logprob) or self.round >= self._revise_at:
            self._revise()

    def record(
        self, name: int, tokens: float, seconds: float, drafted: float, logprob: float = 0.0
    ) -> None:
        """A round with drafts of arm ``name`` that were ``drafted`` deep: tokens per row, how long
        it took, and the mean log-probability of what was drawn."""
        self.round += 1
        self._mean.add(tokens, seconds, _VALUE_DECAY)
        gain = tokens * self.plain.seconds - seconds
        self._credit = min(self._credit + gain, _ALLOWANCE * self.plain.seconds)
        cold = False
        if name == BLOCKS:
            name, cold, self._unseen = self._blocks, not self.warm, 0.0
        self._unseen += tokens
        moved = self._moved(tokens, logprob)
        if cold:  # what it took is that of many rounds
            self._revise()
            return
        arm = self.arms.setdefault(name, _Arm())
        arm.add(tokens, seconds, _DECAY)
        tried = min(tokens, drafted)
        arm.hits += _DECAY * ((tokens - 1) / tried - arm.hits) if tried > 0 else 0.0
        if loses := self._gain(arm) < self._gain(self.plain):
            arm.resumes = self.round + arm.pause
            arm.pause = min(2 * arm.pause, _LONGEST_PAUSE)
        else:
            arm.pause = _FIRST_PAUSE
        if (
            moved
            or loses
            or arm.rounds <= _LOOK
            or self.round >= min(self._look_at, self._revise_at)
        ):
            self._revise()

    def record_tail(self, draft: Draft, accepted: int) -> None:
        """How many tokens of a path that ends in copied ones were accepted."""
        beyond = accepted - (draft.deepest - draft.copied)
        self.whole += _DECAY * ((beyond >= 0) - self.whole)
        if beyond >= 0:
            share = beyond / min(beyond + 1, draft.copied)
            self.tails[draft.extended] += _DECAY * (share - self.tails[draft.extended])

    def _moved(self, tokens: float, logprob: float) -> bool:
        """Whether the text has become so much harder or easier that other experience counts."""
        self._surprise -= min(1.0, _SURPRISE_DECAY * tokens) * (self._surprise + logprob)
        arm = BLOCKS - sum(2 for bound in _SURPRISES if self._surprise > bound)
        moved, self._blocks = arm != self._blocks, arm
        return moved

    def _gain(self, arm: _Arm) -> float:
        """Seconds that a round with this arm saves against drawing its tokens at the mean rate;
        others than plain decoding must save a margin more."""
        margin = 1.0 if arm is self.plain else _MARGIN
        return arm.tokens * self._value() - arm.seconds * margin

    def _revise(self) -> None:
        """Make the next plan, and say when time alone may change it."""
        if self.round - self._plain_at >= _REFRESH or self.plain.rounds < 2:
            self.plan, self._revise_at = Plan(), self.round + 1
            return
        best, self._revise_at = self._gain(self.plain), self.round + _REFRESH
        self._look_at = self.round + _LOOK
        blocks, extended = None, ()
        if self.blocks and self._wanted(self._blocks, best):
            blocks = self._tree()
            extended = self._extensions()
            if (arm := self.arms.get(self._blocks)) is not None and arm.rounds > 1:
                best = max(best, self._gain(arm))
        copied = [0, 0]
        for size in range(2, LONGEST_MATCH + 1):
            copied.append(self._copy_length(size) if self._wanted(size, best) else 0)
        self.plan = Plan(blocks, tuple(copied) if any(copied) else (), extended=extended)

    def _wanted(self, name: int, best: float) -> bool:
        """Whether an arm saves more than ``best``, or may be tried again."""
        arm = self.arms.setdefault(name, _Arm())
        if arm.rounds > 1:
            gain = self._gain(arm)
            if gain > best:
                return True
            if gain > self._gain(self.plain):
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
        return max(1, self._worth(1.0, self.arms[size].hits))

    def _extensions(self) -> tuple[int, ...]:
        """The same below a drafted path, by what matches at its end."""
        lengths = [self._worth(self.whole, hits) for hits in self.tails[2:]]
        return (0, 0, *lengths) if any(lengths) else ()

    def _worth(self, above: float, hits: float) -> int:
        """Nodes of a path that are likelier than their share of a token's time, where the first's
        parent is accepted with ``above``, and every other with ``hits``."""
        if not self.costs.known:
            return _UNTRIED_COPY
        value, hits = self._value(), min(hits, _CERTAIN)
        bound = self.costs.node / value if value else 0.0
        if not bound:
            return _LONGEST_COPY
        if above * hits <= bound:
            return 0
        return min(_LONGEST_COPY, int(math.log(bound / above) / math.log(hits)))

    def _value(self) -> float:
        """Seconds that a token takes on average."""
        return self._mean.seconds / self._mean.tokens if self._mean.rounds > 1 else 0.0
