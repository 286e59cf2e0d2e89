"""``mimo_native.selftest``: the native kernels against plain torch, on the machine that asks.

The failure to look for is the silent one: a dropped sink, window or value scale leaves text that
reads well. So the prompt is longer than the window, the sinks are large, and each of the three is
also left out once on purpose, to show that the check would see it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from . import _C, backends
from .config import MiMoConfig
from .nn import MiMoForCausalLM, Output

__all__ = ["LevelCheck", "SelfTest", "selftest"]

_TOKENS = 300
# Largest difference of logits over the largest logit. Several hundred roundings of each dtype lie
# between the ids and a logit.
_TOLERANCE = {"float32": 2e-5, "bfloat16": 4e-2}
# A left-out ingredient must show at least this many tolerances.
_MARGIN = 100


@dataclass(frozen=True)
class LevelCheck:
    """One instruction-set level at one dtype."""

    level: str
    dtype: str
    error: float  # max |native - reference| / max |reference|
    chunks_equal: bool  # the same bits with a cache, in three chunks

    @property
    def passed(self) -> bool:
        return self.error <= _TOLERANCE[self.dtype] and self.chunks_equal


@dataclass(frozen=True)
class SelfTest:
    """The result; ``passed`` sums it up and ``str`` is for people."""

    checks: tuple[LevelCheck, ...]
    effect: dict[str, float]  # of leaving an ingredient out, measured like an error
    seconds: float

    @property
    def passed(self) -> bool:
        seen = all(e >= _MARGIN * _TOLERANCE["float32"] for e in self.effect.values())
        return seen and all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        return {"passed": self.passed, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{c.level:<11} {c.dtype:<9} error {c.error:.1e} (limit {_TOLERANCE[c.dtype]:.0e}),"
            f" chunked {'equal' if c.chunks_equal else 'DIFFERS'}:"
            f" {'passed' if c.passed else 'FAILED'}"
            for c in self.checks
        ]
        lines += [f"without {name}: error {size:.1e}" for name, size in self.effect.items()]
        lines.append(f"{'passed' if self.passed else 'FAILED'} in {self.seconds:.1f} s")
        return "\n".join(lines)


def selftest() -> SelfTest:
    """Run a small random model on a prompt of 300 tokens at every level of this CPU.

    Native logits are compared with ``mimo_native.reference``, and with those of the same prompt fed
    in chunks through the caches; about a second on one thread. The level in use and torch's thread
    count are switched meanwhile and set back: run nothing else in the process.
    """
    began = time.perf_counter()
    model = _model(_config())
    ids = torch.randint(
        0, model.config.vocab_size, (1, _TOKENS), generator=torch.Generator().manual_seed(1)
    )
    with torch.inference_mode(), _one_thread():
        with backends.use("reference"):
            want = model(ids)
            effect = {name: _error(m(ids).logits, want.logits) for name, m in _incomplete(model)}
        checks = [
            _check(level, dressed, ids, want)
            for dressed in (_model(model.config).pack(), _model(model.config).bfloat16().pack())
            for level in _C.isa_levels()
        ]
    return SelfTest(tuple(checks), effect, time.perf_counter() - began)


def _config() -> MiMoConfig:
    """The released head dims and window on a small model: one global, two sliding layers."""
    return replace(
        MiMoConfig.tiny(),
        hybrid_layer_pattern=(0, 1, 1),
        moe_layer_freq=(0, 1, 1),
        num_attention_heads=4,
        swa_num_attention_heads=4,
        head_dim=192,
        swa_head_dim=192,
        v_head_dim=128,
        swa_v_head_dim=128,
        window_keys=129,
        num_mtp_layers=0,
    )


def _model(config: MiMoConfig) -> MiMoForCausalLM:
    """Weights that bfloat16 holds exactly, so that one reference serves both dtypes."""
    model = MiMoForCausalLM(config).init_weights(std=0.12, seed=0)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.bfloat16().float()
        if name.endswith("attention_sink_bias"):
            parameter.data = torch.linspace(-2.0, 8.0, parameter.numel())
    return model


def _incomplete(model: MiMoForCausalLM) -> Iterator[tuple[str, MiMoForCausalLM]]:
    """The model without one of its ingredients."""
    config = model.config
    yield "sink", _model(replace(config, add_swa_attention_sink_bias=False))
    yield "window", _model(replace(config, window_keys=_TOKENS))
    yield "value scale", _model(replace(config, attention_value_scale=1.0))


def _check(level: str, model: MiMoForCausalLM, ids: Tensor, want: Output) -> LevelCheck:
    # The reference's choice of experts: rounding may decide a near tie either way.
    with _level(level):
        got = model(ids, replay_ids=want.routing).logits
        chunked = _chunked(model, ids, want.routing)
    return LevelCheck(
        level=level,
        dtype=str(model.dtype).removeprefix("torch."),
        error=_error(got, want.logits),
        chunks_equal=torch.equal(chunked, got),
    )


def _chunked(model: MiMoForCausalLM, ids: Tensor, routing: Tensor) -> Tensor:
    cache = model.new_cache(1, _TOKENS)
    bounds = (0, 1, 130, _TOKENS)
    parts = [
        model(ids[:, a:b], cache=cache, replay_ids=routing[:, :, a:b]).logits
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, dim=1)


def _error(got: Tensor, want: Tensor) -> float:
    error = (got - want).abs().max() / want.abs().max()
    return float(error) if torch.isfinite(got).all() else float("inf")


@contextmanager
def _level(level: str) -> Iterator[None]:
    before = _C.isa()
    _C.set_isa(level)
    try:
        yield
    finally:
        _C.set_isa(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On a busy machine threads wait for each other far longer than this little work takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
