"""Random cases of every op: sizes near the edges of vectors, tiles and blocks more than others."""

from collections.abc import Callable
from random import Random

import torch

from ..attention.cases import AttentionCase, CachedCase, VarlenCase
from ..case import FLOATS, Case
from ..experts.cases import ExpertMlpCase, SwigluCase, SwigluMlpCase
from ..gemm.cases import GroupedGemmCase, LinearCase
from ..loss.cases import CrossEntropyCase, LogProbCase, ReverseKLCase
from ..norm_rope.cases import RmsNormCase, RopeCase, RopeTableCase
from ..routing.cases import RouteCase
from ..sampling.cases import SampleCase

__all__ = ["BACKWARD", "DRAWS"]

_SINKS = ("none", "spread", "-inf", "+30", "mixed")


def _size(rng: Random, most: int) -> int:
    """0 now and then, small numbers often, edges of vectors and tiles more than others."""
    if rng.random() < 0.04:
        return 0
    near = rng.choice((1, 2, 8, 14, 16, 32, 64, 98, 128, 256, 512)) + rng.randrange(-1, 2)
    return min(most, max(1, rng.choice((near, rng.randrange(1, 20), rng.randrange(1, most + 1)))))


def _width(rng: Random, most: int) -> int:
    return max(1, _size(rng, most))


def _linear(rng: Random) -> LinearCase:
    dtype = rng.choice(FLOATS)
    return LinearCase(
        m=_size(rng, 300), n=_width(rng, 300), k=_width(rng, 600), dtype=dtype,
        data=rng.choice(("normal", "normal", "positive", "scales", "denormal")),
        out_dtype=rng.choice((None, torch.float32)) if dtype == torch.bfloat16 else None,
        leading=rng.choice(((), (), (2,), (1, 3))),
    )  # fmt: skip


def _grouped(rng: Random) -> GroupedGemmCase:
    sizes = tuple(rng.choice((0, 0, 1, _size(rng, 130))) for _ in range(rng.randrange(1, 12)))
    n, k = _width(rng, 140), _width(rng, 200)
    return GroupedGemmCase(sizes=sizes, n=n, k=k, dtype=rng.choice(FLOATS))


def _experts(rng: Random) -> ExpertMlpCase:
    experts = rng.randrange(1, 40)
    return ExpertMlpCase(
        tokens=_size(rng, 200), width=_width(rng, 140), ffn=_width(rng, 100), experts=experts,
        slots=rng.randrange(1, min(experts, 8) + 1), dtype=rng.choice(FLOATS),
        routing=rng.choice(("uniform", "uniform", "hot", "one", "few", "zipf")),
        data=rng.choice(("normal", "normal", "huge", "denormal", "zeros")),
    )  # fmt: skip


def _swiglu(rng: Random) -> SwigluCase:
    shape = (_size(rng, 40), 2 * _width(rng, 300))
    return SwigluCase(shape=shape, std=rng.choice((1e-6, 1.0, 40.0)), dtype=rng.choice(FLOATS))


def _swiglu_mlp(rng: Random) -> SwigluMlpCase:
    sizes = {"tokens": _size(rng, 150), "width": _width(rng, 200), "ffn": _width(rng, 200)}
    return SwigluMlpCase(**sizes, dtype=rng.choice(FLOATS))


def _route(rng: Random) -> RouteCase:
    n_group = rng.choice((1, 1, 1, 2, 4, 8))
    experts = n_group * rng.randrange(2, 300 // n_group)
    topk_group = rng.randrange(1, n_group + 1)
    most = min(experts // n_group * topk_group, 20)
    return RouteCase(
        tokens=_size(rng, 100), experts=experts, top_k=rng.randrange(1, most + 1),
        scoring=rng.choice(("sigmoid", "softmax")), bias=rng.choice(("none", "normal", "huge")),
        normalize=rng.random() < 0.7, scaling=rng.choice((1.0, 2.5)),
        n_group=n_group, topk_group=topk_group, std=rng.choice((0.3, 1.0)),
        replay=n_group == 1 and rng.random() < 0.2, return_stats=rng.random() < 0.3,
    )  # fmt: skip


def _heads(rng: Random) -> dict[str, object]:
    groups = rng.randrange(1, 4)
    return {
        "groups": groups, "heads": groups * rng.choice((1, 2, 3, 4, 8, 16)),
        "qk": rng.choice((_width(rng, 80), 8 * rng.randrange(1, 25), 64, 192)),
        "v": rng.choice((_width(rng, 80), 8 * rng.randrange(1, 17), 64, 128)),
        "window": rng.choice((None, None, 1, 2, 127, 128, 129, rng.randrange(1, 400))),
        "sink": rng.choice(_SINKS), "std": rng.choice((1.0, 1.0, 5.0)),
        "scale": rng.choice((None, None, 1.0)), "dtype": rng.choice(FLOATS),
    }  # fmt: skip


def _attention(rng: Random) -> AttentionCase:
    queries, batch, heads = _size(rng, 200), rng.randrange(1, 3), _heads(rng)
    keys = rng.choice((None, _size(rng, 400), 2048 + rng.randrange(-70, 70)))
    lens = None
    if keys and rng.random() < 0.3:
        lens = tuple(rng.randrange(keys + 1) for _ in range(batch))
    causal = heads["window"] is not None or rng.random() < 0.8
    return AttentionCase(
        queries=queries, keys=keys, kv_lens=lens, batch=batch, causal=causal, **heads
    )


def _varlen(rng: Random) -> VarlenCase:
    lens = tuple(_size(rng, 150) for _ in range(rng.randrange(5)))
    own = None if rng.random() < 0.5 else tuple(_size(rng, 200) for _ in lens)
    return VarlenCase(q_lens=lens, k_lens=own, **_heads(rng))


def _cached(rng: Random) -> CachedCase:
    rows, tree = rng.randrange(1, 5), rng.random() < 0.4
    new = tuple(_size(rng, 64 if tree else 150) for _ in range(rows))
    committed = tuple(rng.choice((0, _size(rng, 500), 64, 128, 2050)) for _ in range(rows))
    return CachedCase(committed=committed, new=new, tree=tree, **_heads(rng))


def _norm(rng: Random) -> RmsNormCase:
    dtype = rng.choice(FLOATS)
    return RmsNormCase(
        shape=(_size(rng, 40), _width(rng, 700)), std=rng.choice((1e-3, 1.0, 1e6)), dtype=dtype,
        weight_dtype=rng.choice((None, torch.float32)), eps=rng.choice((1e-5, 1e-6)),
    )  # fmt: skip


def _rope(rng: Random) -> RopeCase:
    groups, qk = rng.randrange(1, 5), 2 * _width(rng, 100)
    return RopeCase(
        tokens=_size(rng, 60), groups=groups, heads=groups * rng.randrange(1, 9), qk=qk,
        v=_width(rng, 130), rotary_dim=2 * rng.randrange(1, qk // 2 + 1),
        value_scale=rng.choice((1.0, 0.707)), fused=rng.random() < 0.5, dtype=rng.choice(FLOATS),
    )  # fmt: skip


def _rope_table(rng: Random) -> RopeTableCase:
    positions = tuple(rng.randrange(rng.choice((10, 1 << 18))) for _ in range(_size(rng, 50)))
    theta, dim = rng.choice((1e4, 5e6)), 2 * _width(rng, 100)
    return RopeTableCase(positions=positions, theta=theta, rotary_dim=dim)


def _loss_sizes(rng: Random) -> dict[str, object]:
    return {
        "n": _size(rng, 140), "v": _width(rng, 2200), "d": _width(rng, 130),
        "std": rng.choice((1.0, 1.0, 10.0)), "dtype": rng.choice(FLOATS),
    }  # fmt: skip


def _cross_entropy(rng: Random) -> CrossEntropyCase:
    reduction = rng.choice(("mean", "sum", "none"))
    return CrossEntropyCase(reduction=reduction, ignored=rng.choice((0, 0, 1, 3)),
                            **_loss_sizes(rng))  # fmt: skip


def _logprob(rng: Random) -> LogProbCase:
    return LogProbCase(k=rng.choice((0, 0, 1, 4)), temperature=rng.choice((0.6, 1.0, 2.0)),
                       **_loss_sizes(rng))  # fmt: skip


def _reverse_kl(rng: Random) -> ReverseKLCase:
    return ReverseKLCase(teacher_d=_width(rng, 90), teacher_dtype=rng.choice(FLOATS),
                         temperature=rng.choice((0.6, 1.0)), **_loss_sizes(rng))  # fmt: skip


def _sample(rng: Random) -> SampleCase:
    truncated = rng.random() < 0.6

    def some(*values: float) -> tuple[float, ...]:
        return rng.choice(((), tuple(rng.choice(values) for _ in range(rng.randrange(1, 5)))))

    return SampleCase(
        rows=_size(rng, 40), vocab=_width(rng, 3000), temperature=some(0.0, 0.5, 1.0, 1.7),
        top_k=truncated * some(0, 1, 3, 50), top_p=truncated * some(0.1, 0.9, 1.0),
        min_p=truncated * some(0.0, 0.1, 0.5),
        data=rng.choice(("normal", "ties", "masked", "one_hot")), dtype=rng.choice(FLOATS),
    )  # fmt: skip


BACKWARD = ("attention backward", "expert_mlp backward")
DRAWS: dict[str, Callable[[Random], Case]] = {
    "linear": _linear, "grouped_gemm": _grouped, "expert_mlp": _experts, "swiglu": _swiglu,
    "swiglu_mlp": _swiglu_mlp, "route": _route, "attention": _attention,
    "attention_varlen": _varlen, "attention_cached": _cached, "rms_norm": _norm, "rope": _rope,
    "rope_table": _rope_table, "linear_cross_entropy": _cross_entropy, "linear_logprob": _logprob,
    "linear_reverse_kl": _reverse_kl, "sample": _sample,
    "attention backward": lambda rng: rng.choice((_attention, _varlen))(rng),
    "expert_mlp backward": _experts,
}  # fmt: skip
