"""Cases of the router: experts per lane, groups, both scorings, replay and statistics."""

import torch

from ... import ops, reference
from ..gpu import SimulatedGpu
from .subjects import Case, register

__all__: list[str] = []


def _route(
    tokens: int, experts: int, top_k: int, *, bias: bool = False, replay: bool = False,
    ties: bool = False, flat: bool = False, stats: bool = False, **options: object,
) -> Case:  # fmt: skip
    """``flat``: two values in every register of a lane, and the lower in the second quarter."""

    def case(_: SimulatedGpu) -> None:
        generator = torch.Generator().manual_seed(tokens + experts)
        wide = torch.full((tokens, experts + 2), torch.nan)
        logits = wide[:, 1 : experts + 1]
        logits.copy_(torch.randn(tokens, experts, generator=generator))
        if ties:  # of keys that are exactly 0, and of others
            logits.copy_(torch.where(logits > 0.4, 1.5, -200.0))
        if flat:
            logits[:] = torch.where(torch.arange(experts) % 8 < 4, 1.5, -200.0)
            logits[:, experts // 4 : experts // 2] = -200.0
        shift = torch.randn(experts, generator=generator) * 0.3 if bias else None
        given = torch.rand(tokens, experts, generator=generator).argsort(-1)[:, :top_k]
        arguments = {"bias": shift, "top_k": top_k, "return_stats": stats, **options}
        got = ops.route(logits, replay_ids=given.int() if replay else None, **arguments)
        want = reference.route(
            logits.double(),
            replay_ids=given if replay else None,
            **arguments | {"bias": None if shift is None else shift.double()},
        )
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1].double(), want[1], rtol=1e-5, atol=1e-7)
        if stats:
            assert torch.equal(got[2].counts, want[2].counts)
            share = got[2].mean_score.double()
            torch.testing.assert_close(share, want[2].mean_score, rtol=1e-5, atol=1e-7)

    return case


def _broken(experts: int, scoring: str) -> Case:
    """NaN scores, and ids to replay that do not exist."""

    def case(_: SimulatedGpu) -> None:
        last = experts - 1
        logits = torch.randn(6, experts, generator=torch.Generator().manual_seed(1))
        logits[1, 3], logits[4, last] = torch.nan, torch.nan
        _, weights = ops.route(logits, top_k=3, scoring=scoring)
        assert weights.isnan().any(-1).tolist() == [False, True, False, False, True, False]
        given = torch.tensor([[0, last], [experts, 1], [-1, 2], [3, 4], [5, 6], [7, experts]])
        fine = logits.nan_to_num()
        for integer in (torch.int16, torch.int32, torch.int64):
            ids, weights = ops.route(fine, top_k=2, replay_ids=given.to(integer), scoring=scoring)
            assert torch.equal(ids, given.int())
            assert weights.isnan().any(-1).tolist() == [False, True, True, False, False, True]
        given %= min(experts, 256)
        ids, _ = ops.route(fine, top_k=2, replay_ids=given.to(torch.uint8))
        assert torch.equal(ids, given.int())

    return case


_SIZES = ((1, 1, 1), (5, 33, 8), (4, 64, 64), (3, 96, 33), (6, 256, 8), (5, 257, 3), (2, 1024, 65))
# An edge in each of the registers of a lane; every size of groups that lanes share differently.
_EDGES = (*((2, 5 + 32 * i, 3) for i in range(32)), (9, 10, 3))
_GROUPS = ((64, 6, 8, 3), (66, 2, 33, 2), (30, 5, 3, 2), (256, 8, 8, 4), (130, 3, 65, 5),
           (1024, 8, 512, 40), (512, 6, 8, 3), (256, 8, 128, 20), (1022, 8, 511, 9), (40, 1, 4, 2),
           (80, 1, 4, 2), (640, 1, 4, 2), (1024, 8, 32, 31), (320, 4, 64, 33), (1024, 70, 2, 1),
           (256, 40, 2, 1), (64, 20, 2, 1), (1000, 5, 250, 9), (1000, 5, 100, 9))  # fmt: skip
register(
    "routing",
    *(_route(*size, bias=bias) for size in _SIZES for bias in (False, True)),
    *(_route(*size, scoring="softmax", stats=True) for size in (*_SIZES, *_EDGES)),
    *(_route(*size, ties=True, stats=True, scaling=2.5) for size in (*_SIZES, *_EDGES)),
    *(_route(*size, bias=True) for size in _EDGES),
    *(_route(*size, replay=True, bias=True, normalize=False) for size in _SIZES),
    *(_route(20, e, k, n_group=g, topk_group=n, bias=not ties, ties=ties) for ties in (False, True)
      for e, k, g, n in _GROUPS),
    *(_route(2, e, k, n_group=4, topk_group=3, flat=True, stats=True)
      for e, k in ((64, 3), (64, 33), (256, 9), (1024, 9))),
    _route(2, 1024, 512, bias=True),
    *(_route(3, 64, 40, n_group=4, topk_group=3, scoring=scoring, stats=True)
      for scoring in ("sigmoid", "softmax")),
    *(_route(3, e, 2, n_group=e // 2, topk_group=3, scoring="softmax", stats=True)
      for e in range(6, 1024, 32)),
    *(_broken(e, scoring) for e in (40, 70, 300) for scoring in ("sigmoid", "softmax")),
    *(_route(n, 33, 3, scoring=scoring, stats=True) for scoring in ("sigmoid", "softmax")
      for n in (75, 32)),
    *(_route(2, e, 1, bias=True) for e in (40, 70, 300)),
)  # fmt: skip
