"""flash-attn's functions against the mask that its documentation defines, in float64."""

import pytest
import torch
from torch import Tensor

from mimo_native.errors import ShapeError, UnsupportedError
from mimo_native.integrations.flash_attn import flash_attn_func, flash_attn_varlen_func


def definition(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window: tuple[int, int], scale: float
) -> Tensor:
    """One row, q [T, H, D]: query i sees the keys within [i + S - T - left, i + S - T + right]."""
    left, right = window
    n_queries, heads, _ = q.shape
    n_keys, groups, _ = k.shape
    at = torch.arange(n_queries)[:, None] + n_keys - n_queries
    keys = torch.arange(n_keys)
    seen = torch.ones(n_queries, n_keys, dtype=torch.bool)
    if left >= 0:
        seen &= keys >= at - left
    if right >= 0:
        seen &= keys <= at + right
    if causal:
        seen &= keys <= at
    k, v = (t.double().repeat_interleave(heads // groups, 1) for t in (k, v))
    a = torch.einsum("thd,shd->hts", q.double(), k) * scale
    p = a.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("hts,shd->thd", p, v)


def tensors(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(0)
    sizes = ((queries, 4, 32), (keys, 2, 32), (keys, 2, 32))
    return tuple(torch.randn(*size, generator=gen) for size in sizes)


MASKS = [
    (False, (-1, -1)), (True, (-1, -1)), (True, (0, 0)), (True, (1, 0)), (True, (16, 0)),
    (True, (16, -1)), (True, (16, 5)), (False, (16, 0)), (False, (-1, 0)), (True, (200, 200)),
]  # fmt: skip


@pytest.mark.parametrize(("causal", "window"), MASKS)
@pytest.mark.parametrize("keys", [70, 90, 40])
def test_masks(causal: bool, window: tuple[int, int], keys: int) -> None:
    q, k, v = tensors(70, keys)
    got = flash_attn_func(q[None], k[None], v[None], causal=causal, window_size=window)[0]
    want = definition(q, k, v, causal, window, 32**-0.5)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=3e-6)


def test_varlen_and_scale() -> None:
    lens = (3, 0, 40, 27)
    q, k, v = tensors(70, 70)
    edges = torch.tensor([0, *lens]).cumsum(0).int()
    got = flash_attn_varlen_func(
        q, k, v, edges, edges, 40, 40, softmax_scale=0.3, causal=True, window_size=(8, 0)
    )
    parts = zip(q.split(lens), k.split(lens), v.split(lens), strict=True)
    want = torch.cat([definition(*part, True, (8, 0), 0.3) for part in parts])
    torch.testing.assert_close(got.double(), want, rtol=0, atol=3e-6)
    with pytest.raises(ShapeError, match="max_seqlen_k"):
        flash_attn_varlen_func(q, k, v, edges, edges, 40, 39)


def test_gradients() -> None:
    leaves = [t.requires_grad_() for t in tensors(70, 70)]
    o = flash_attn_func(*(t[None] for t in leaves), causal=True, window_size=(16, 0))[0]
    want_o = definition(*leaves, True, (16, 0), 32**-0.5)
    up = torch.randn(o.shape)
    got = torch.autograd.grad(o, leaves, up)
    want = torch.autograd.grad(want_o, leaves, up.double())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_a_sink_and_the_log_sum_exp() -> None:
    q, k, v = (t[None] for t in tensors(20, 20))
    sink = torch.linspace(-2, 2, 4)
    o, lse = flash_attn_func(q, k, v, causal=True, learnable_sink=sink, return_lse=True)
    plain, plain_lse = flash_attn_func(q, k, v, causal=True, return_lse=True)
    both = torch.logaddexp(plain_lse, sink[:, None])
    torch.testing.assert_close(lse, both)
    kept = (plain_lse - both).exp().transpose(1, 2)[..., None]
    torch.testing.assert_close(o, plain * kept)


@pytest.mark.parametrize(
    "option",
    [
        {"dropout_p": 0.1},
        {"softcap": 30.0},
        {"alibi_slopes": torch.ones(4)},
        {"return_attn_probs": True},
        {"window_size": (4, 4)},
        {"window_size": (4, -1)},
        {"window_size": (-1, 3)},
    ],
    ids=lambda option: f"{next(iter(option))}-{next(iter(option.values()))}",
)
def test_what_is_not_offered_is_refused_by_name(option: dict) -> None:
    q, k, v = (t[None] for t in tensors(5, 5))
    with pytest.raises(UnsupportedError, match=next(iter(option))):
        flash_attn_func(q, k, v, **option)


def test_a_block_table_is_refused() -> None:
    q, k, v = tensors(5, 5)
    edges, table = torch.tensor([0, 5]), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(UnsupportedError, match="block_table"):
        flash_attn_varlen_func(q, k, v, edges, edges, 5, 5, block_table=table)
