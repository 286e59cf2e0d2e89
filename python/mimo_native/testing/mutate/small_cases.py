"""Rotary embedding, sampling and draft trees as subjects."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ... import ops, reference
from ...cache import GlobalLayerCache
from ...errors import ShapeError
from ..gpu import SimulatedGpu
from .subjects import register

Case = Callable[[SimulatedGpu], None]
_F32, _BF16 = torch.float32, torch.bfloat16


def _heads(
    tokens: int, heads: tuple[int, int], dims: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and the table; heads (q, kv), dims (qk, v, rotary)."""
    generator = torch.Generator().manual_seed(tokens)
    (hq, hkv), (qk, dv, rotary) = heads, dims
    q, k, v = (
        torch.randn(tokens, h, d, generator=generator).to(dtype)
        for h, d in ((hq, qk), (hkv, qk), (hkv, dv))
    )
    table = reference.rope_table(torch.arange(tokens) * 37, theta=1e4, rotary_dim=rotary)
    return q, k, v, table


def _rope(
    tokens: int, heads: tuple[int, int], dims: tuple[int, int, int], dtype: torch.dtype
) -> Case:
    """heads (q, kv), dims (qk, v, rotary)."""

    def case(_: SimulatedGpu) -> None:
        q, k, v, table = _heads(tokens, heads, dims, dtype)
        got = ops.rope(q, k, v, table, value_scale=0.707)
        want = reference.rope(q.double(), k.double(), v.double(), table, value_scale=0.707)
        tolerance = 2.0**-8 if dtype == _BF16 else 1e-6
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=1e-5)

    return case


def _rope_cached(
    tokens: int, heads: tuple[int, int], dims: tuple[int, int, int], dtype: torch.dtype
) -> Case:
    """Two tokens or more: the first and the last place of the cache, then places beside it."""

    def case(_: SimulatedGpu) -> None:
        q, k, v, table = _heads(tokens, heads, dims, dtype)
        sizes = {"num_kv_heads": heads[1], "head_dim": dims[0], "v_head_dim": dims[1]}
        cache = GlobalLayerCache(2, 64, dtype=dtype, **sizes)
        cache.keys.fill_(7)
        cache.values.fill_(7)
        stored = cache.keys.clone(), cache.values.clone()
        outside = [(2, 0), (-1, 63), (0, 64), (1, -1)]
        rows, positions = torch.tensor([(0, 0), (1, 63), *outside])[:tokens].T.contiguous()
        got = ops.rope_cached(
            q, k, v, table, cache, rows=rows, positions=positions, value_scale=0.707
        )
        want = reference.rope(q.double(), k.double(), v.double(), table, value_scale=0.707)
        tolerance = 2.0**-8 if dtype == _BF16 else 1e-6
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=1e-5)
        for at, part, new in zip((cache.keys, cache.values), stored, got[1:], strict=True):
            part[0, :, 0], part[1, :, 63] = new[0], new[1]
            assert torch.equal(at, part)

    return case


def _rope_table(tokens: int, rotary: int, stride: int = 8191) -> Case:
    """Above angles of 2^31 sines and cosines are found by another way."""

    def case(_: SimulatedGpu) -> None:
        positions = torch.arange(tokens) * stride
        got = ops.rope_table(positions, theta=1e4, rotary_dim=rotary)
        want = reference.rope_table(positions, theta=1e4, rotary_dim=rotary)
        torch.testing.assert_close(got, want, rtol=0, atol=1.2e-7)

    return case


register(
    "rope",
    *(_rope(5, (3, 1), (24, 16, 16), dtype) for dtype in (_F32, _BF16)),
    *(_rope(3, (2, 2), (20, 6, 4), dtype) for dtype in (_F32, _BF16)),
    *(_rope(2, (16, 2), (192, 128, 64), dtype) for dtype in (_F32, _BF16)),
    *(_rope(1, (33, 1), (30, 16, 30), dtype) for dtype in (_F32, _BF16)),
    _rope(2, (2, 1), (32, 8, 32), _BF16),
    only=("rope_kernel",),
)
register(
    "rope_cached",
    *(_rope_cached(6, (3, 1), (24, 16, 16), dtype) for dtype in (_F32, _BF16)),
    *(_rope_cached(3, (2, 2), (24, 8, 4), dtype) for dtype in (_F32, _BF16)),
    *(_rope_cached(6, (1, 2), (8, 8, 6), dtype) for dtype in (_F32, _BF16)),
    *(_rope_cached(2, (16, 2), (192, 128, 64), dtype) for dtype in (_F32, _BF16)),
    *(_rope_cached(2, (33, 1), (16, 16, 14), dtype) for dtype in (_F32, _BF16)),
    _rope_cached(2, (2, 1), (32, 8, 32), _BF16),
    only=("rope_cached",),
)
register(
    "rope_table",
    _rope_table(40, 64),
    _rope_table(3, 2),
    _rope_table(128, 4),
    _rope_table(50, 8, 1 << 34),
    only=("rope_table",),
)


def _sample(
    rows: int,
    vocab: int,
    dtype: torch.dtype = _F32,
    *,
    temperatures: tuple[float, ...] = (),
    ties: bool = False,
    hidden: bool = False,
    spoilt: float | None = None,
) -> Case:
    def case(_: SimulatedGpu) -> None:
        generator = torch.Generator().manual_seed(vocab)
        logits = 2 * torch.randn(rows, vocab, generator=generator)
        if ties:
            logits = logits.round()
        if hidden:
            logits[:, torch.arange(vocab) % 3 != 1] = -torch.inf
        logits = logits.to(dtype)
        temperature = None
        if temperatures:
            temperature = torch.tensor(temperatures).repeat(rows)[:rows]
        args = {"seed": torch.arange(rows), "position": torch.arange(rows) * 5,
                "temperature": temperature}  # fmt: skip
        if spoilt is not None:
            for row in range(rows):
                logits[row, row * (vocab - 1) // max(rows - 1, 1)] = spoilt
            if spoilt == -torch.inf:
                logits[:] = spoilt
            ids, logprobs = ops.sample(logits, **args)
            assert (ids == -1).all()
            assert logprobs.isnan().all()
            return
        ids, logprobs = ops.sample(logits, **args)
        want_ids, want_logprobs = reference.sample(logits.double(), **args)
        assert torch.equal(ids, want_ids)
        torch.testing.assert_close(logprobs.double(), want_logprobs.double(), rtol=0, atol=2e-5)

    return case


def _spike(vocab: int, step: int, dtype: torch.dtype = _F32) -> Case:
    """Each row's weight lies in one place, and the places are everywhere."""

    def case(_: SimulatedGpu) -> None:
        places = torch.arange(step - 1, vocab, step)
        rows = torch.arange(len(places))
        logits = torch.full((len(places), vocab), -7.0, dtype=dtype)
        logits[rows, places] = 200.0
        ids, logprobs = ops.sample(logits, seed=rows, position=rows)
        assert torch.equal(ids, places)
        torch.testing.assert_close(logprobs, torch.zeros(len(places)), rtol=0, atol=1e-6)

    return case


# A coin that is a fraction of few bits: _COIN / 1024.
_SEED, _POSITION, _COIN = 16, 1259857944, 449


def _boundary(before: int, after: int, dtype: torch.dtype = _F32, *, dust: int = 0) -> Case:
    """1024 equal weights, of which the first _COIN, the last at ``before``, make up the coin
    exactly: the next one, at ``after``, is drawn.

    dust: every so many ids between them weights that are lost when they are added one by one, and
    not when they come together: the last of them is drawn, and no id that has none.
    """

    def case(_: SimulatedGpu) -> None:
        logits = torch.full((1, 4 * 1024), -torch.inf, dtype=dtype)
        logits[0, before + 1 - _COIN : before + 1] = 0
        logits[0, after : after + 1024 - _COIN] = 0
        if dust:
            logits[0, before + dust : after - 1 : dust] = -31.5
        one = torch.ones(1, dtype=torch.int64)
        ids, logprobs = ops.sample(logits, seed=_SEED * one, position=_POSITION * one)
        drawn = range(before + dust, after - 1, dust)[-1] if dust else after
        assert ids.tolist() == [drawn]
        assert abs(float(logprobs) - float(logits[0, drawn]) + math.log(1024)) < 1e-5

    return case


def _equal(rows: int, vocab: int, dtype: torch.dtype) -> Case:
    def case(_: SimulatedGpu) -> None:
        args = {"seed": torch.arange(rows), "position": torch.arange(rows)}
        ids, logprobs = ops.sample(torch.ones(rows, vocab, dtype=dtype), **args)
        want, _ = reference.sample(torch.ones(rows, vocab, dtype=torch.float64), **args)
        assert torch.equal(ids, want)
        assert (logprobs + math.log(vocab)).abs().max() < 1e-5

    return case


register(
    "sample",
    *(_sample(40, 50, dtype) for dtype in (_F32, _BF16)),
    *(_sample(9, 2500, dtype, temperatures=(1.3, 0.0)) for dtype in (_F32, _BF16)),
    *(_sample(30, 40, dtype, temperatures=(0.0, 0.7), ties=True) for dtype in (_F32, _BF16)),
    *(_sample(30, 300, dtype, hidden=True) for dtype in (_F32, _BF16)),
    *(_sample(3, 1, dtype) for dtype in (_F32, _BF16)),
    *(_sample(4, 1024, dtype) for dtype in (_F32, _BF16)),
    *(_sample(5, 600, dtype, spoilt=torch.nan) for dtype in (_F32, _BF16)),
    *(_sample(9, 2304, dtype, spoilt=torch.inf) for dtype in (_F32, _BF16)),
    *(_sample(2, 300, dtype, spoilt=-torch.inf) for dtype in (_F32, _BF16)),
    # Weights in every place of a chunk and in every chunk; then draws on the edges of ids, of a
    # lane's ids and of chunks.
    *(_spike(1100, 1, dtype) for dtype in (_F32, _BF16)),
    *(_spike(9 * 1024 + 5, 341, dtype) for dtype in (_F32, _BF16)),
    *(_spike(vocab, 128, dtype) for vocab in (1024, 2048, 4096, 8192) for dtype in (_F32, _BF16)),
    *(_spike(vocab, 1, dtype) for vocab in (96, 100) for dtype in (_F32, _BF16)),
    *(_equal(100, 1024, dtype) for dtype in (_F32, _BF16)),
    # Inside a lane's ids, between two lanes, between chunks; dust in a lane, and in many.
    *(
        _boundary(*at, dtype)
        for dtype in (_F32, _BF16)
        for at in ((1999, 2000), (1983, 1984), (2007, 2088), (2047, 2048), (1000, 3100))
    ),
    *(
        _boundary(*at, dtype, dust=dust)
        for dtype in (_F32, _BF16)
        for *at, dust in ((1984, 2016, 1), (1503, 2048, 32))
    ),
)


def _tree(nodes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parents = [-1] + [
        int(torch.randint(max(0, node - 4), node, (), generator=generator))
        for node in range(1, nodes)
    ]
    return torch.arange(nodes) * 3 % 200, torch.tensor(parents)


def _build(nodes: int) -> Case:
    def case(_: SimulatedGpu) -> None:
        tokens, parents = _tree(nodes, nodes)
        ours = ops.build_draft_tree(tokens, parents, root_position=17)
        want = reference.build_draft_tree(tokens, parents, root_position=17)
        for mine, theirs in zip(ours, want, strict=True):
            assert torch.equal(mine, theirs)

    return case


def _refused(call: Callable[[], object]) -> tuple[str, str]:
    """The argument that a call is refused for, and what was expected."""
    try:
        call()
    except ShapeError as error:
        return error.argument, error.expected
    return "", ""


def _refuse(tokens: list[int], parents: list[int], argument: str, expected: str) -> Case:
    def case(_: SimulatedGpu) -> None:
        tree = torch.tensor(tokens), torch.tensor(parents)
        named, wanted = _refused(lambda: ops.build_draft_tree(*tree))
        assert named == argument
        assert expected in wanted

    return case


def _verify(nodes: int, temperature: float, boost: float) -> Case:
    def case(_: SimulatedGpu) -> None:
        tokens, parents = _tree(nodes, nodes)
        generator = torch.Generator().manual_seed(nodes)
        logits = torch.randn(nodes, 200, generator=generator)
        logits[parents[1:], tokens[1:]] += boost
        args = {"seed": 3, "position": 9, "temperature": temperature}
        ours = ops.verify_tree(logits, tokens, parents, **args)
        want = reference.verify_tree(logits, tokens, parents, **args)
        assert ours.path.tolist() == want.path.tolist()
        assert ours.tokens.tolist() == want.tokens.tolist()

    return case


def _descend(first: int, second: int) -> Case:
    """The tokens drawn at the root and at its first child, in a tree whose nodes share theirs.

    Children of the root: nodes 1 to 15, tokens 1 to 15, and from 47 on, tokens from 100 on; of node
    1: nodes 32 to 46, tokens 1 to 15, and 16 to 31, tokens from 100 on.
    """

    def case(_: SimulatedGpu) -> None:
        tokens = torch.tensor([0, *range(1, 16), *range(100, 116), *range(1, 16), *range(100, 117)])
        parents = torch.tensor([-1, *[0] * 15, *[1] * 31, *[0] * 17])
        logits = torch.zeros(64, 200)
        logits[0, first] = logits[1, second] = 1
        args = {"seed": 0, "position": 0, "temperature": 0.0}
        ours = ops.verify_tree(logits, tokens, parents, **args)
        want = reference.verify_tree(logits, tokens, parents, **args)
        assert ours.path.tolist() == want.path.tolist()
        assert ours.tokens.tolist() == want.tokens.tolist()

    return case


def _verify_spoilt(_: SimulatedGpu) -> None:
    tokens, parents = torch.tensor([0, 1, 2]), torch.tensor([-1, 0, 0])
    logits = torch.zeros(3, 8)
    logits[0, 2], logits[2, 7] = 100, torch.nan
    args = {"seed": 0, "position": 0, "temperature": 0.0}
    named, _ = _refused(lambda: ops.verify_tree(logits, tokens, parents, **args))
    assert named == "logits"


register(
    "draft_tree",
    *(_build(nodes) for nodes in (1, 2, 33, 64)),
    _refuse([0, 1, 1], [-1, 0, 0], "tokens", "siblings"),
    _refuse([0, 1, 2, 1], [-1, 0, 1, 0], "tokens", "siblings"),
    _refuse([0, 1, 2], [-1, 2, 1], "parents", "node 1"),
    _refuse([0, 1, 2], [-1, 0, 2], "parents", "node 2"),
    _refuse([0, 1, 2], [-1, -1, 1], "parents", "node 1"),
    _refuse([0, 1], [0, 0], "parents", "root"),
    _refuse([0, 1, 1], [5, 0, 0], "parents", "root"),
    *(_verify(nodes, heat, 8.0) for nodes in (1, 20, 33, 64) for heat in (0.0, 0.5)),
    _verify(40, 1.0, 0.0),
    *(_descend(*drawn) for drawn in ((9, 0), (105, 0), (1, 5), (1, 105), (116, 0), (117, 0))),
    _verify_spoilt,
    only=("tree_sm80",),
)
