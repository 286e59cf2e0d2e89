"""attention and attention_varlen against transformers, torch SDPA and the sink's definition."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from transformers import MiMoV2FlashConfig
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as hub

from mimo_native import ShapeError, reference


def inputs(
    *shape: int, heads: int, groups: int, qk: int, v: int, keys: int | None = None, seed: int = 0
) -> list[Tensor]:
    gen = torch.Generator().manual_seed(seed)
    key_shape = (*shape[:-1], shape[-1] if keys is None else keys)
    sizes = (*shape, heads, qk), (*key_shape, groups, qk), (*key_shape, groups, v)
    return [torch.randn(*s, generator=gen, dtype=torch.float64) for s in sizes]


def hub_mask(queries: int, keys: int, window: int | None) -> Tensor:
    mask = torch.full((queries, keys), -torch.inf, dtype=torch.float64)
    for i in range(queries):
        at = keys - queries + i
        first = 0 if window is None else max(0, at - window + 1)
        mask[i, first : at + 1] = 0
    return mask


@pytest.mark.parametrize("window", [None, 1, 2, 127, 128, 129])
@pytest.mark.parametrize("sink", [None, -8.0, 0.0, 8.0])
@pytest.mark.parametrize(("heads", "groups", "qk", "v"), [(16, 1, 24, 16), (6, 2, 32, 32)])
def test_attention_equals_transformers_eager(
    window: int | None, sink: float | None, heads: int, groups: int, qk: int, v: int
) -> None:
    q, k, value = inputs(2, 310, heads=heads, groups=groups, qk=qk, v=v)
    sinks = None if sink is None else sink + torch.linspace(-1, 1, heads, dtype=torch.float64)
    module = SimpleNamespace(num_key_value_groups=heads // groups, sinks=sinks, training=False)
    flipped = (t.transpose(1, 2) for t in (q, k, value))
    want, _ = hub.eager_attention_forward(module, *flipped, hub_mask(310, 310, window), qk**-0.5)
    got = reference.attention(q, k, value, window_keys=window, sink=sinks)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_whole_attention_layer_equals_transformers(layer: int) -> None:
    """Projections, RoPE, value scale, window and sink, put together from the reference."""
    torch.manual_seed(layer)
    config = MiMoV2FlashConfig(
        hidden_size=40,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=24,
        v_head_dim=16,
        sliding_window=9,
        num_hidden_layers=2,
        layer_types=["full_attention", "sliding_attention"],
        attn_implementation="eager",
    )
    module = hub.MiMoV2FlashAttention(config, layer).double()
    for p in module.parameters():
        p.data.normal_()
    n, window = 37, None if layer == 0 else 9
    x, positions = torch.randn(1, n, 40).double(), torch.arange(n)
    cos_sin = hub.MiMoV2FlashRotaryEmbedding(config)(x, positions[None], module.layer_type)
    want, _ = module(x, cos_sin, hub_mask(n, n, window))

    q, k, v = (
        reference.linear(x[0], p.weight).unflatten(-1, (-1, dim))
        for p, dim in ((module.q_proj, 24), (module.k_proj, 24), (module.v_proj, 16))
    )
    theta = config.rope_parameters[module.layer_type]["rope_theta"]
    table = reference.rope_table(positions, theta=theta, rotary_dim=8)
    q, k, v = reference.rope(q, k, v, table, value_scale=config.attention_value_scale)
    o = reference.attention(q[None], k[None], v[None], window_keys=window, sink=module.sinks)
    got = reference.linear(o.flatten(-2), module.o_proj.weight)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)  # their cos and sin are float32


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("keys", [20, 33, 7])
def test_attention_equals_sdpa(causal: bool, keys: int) -> None:
    q, k, v = inputs(2, 20, heads=6, groups=3, qk=16, v=8, keys=keys)
    visible = torch.ones(20, keys).tril(keys - 20).bool() if causal else torch.ones(20, keys).bool()
    flipped = [t.transpose(1, 2) for t in (q, k, v)]
    want = nnf.scaled_dot_product_attention(*flipped, visible, scale=0.3, enable_gqa=True)
    want = want.transpose(1, 2).nan_to_num(0.0)  # rows that see nothing
    got = reference.attention(q, k, v, causal=causal, scale=0.3)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    if keys < 20 and causal:
        assert got[:, : 20 - keys].eq(0).all()


@pytest.mark.parametrize("window", [1, 2, 127, 128, 129])
def test_the_window_is_exact_to_the_key(window: int) -> None:
    """Changing the key just outside changes nothing, the one just inside does."""
    q, k, v = inputs(1, 300, heads=1, groups=1, qk=8, v=4)
    before = reference.attention(q, k, v, window_keys=window)[0, -1]
    for distance, seen in [(window, False), (window - 1, True)]:
        moved = k.clone(), v.clone()
        for t in moved:
            t[0, 299 - distance] += 1
        assert before.equal(reference.attention(q, *moved, window_keys=window)[0, -1]) != seen


def test_the_sink_is_a_null_logit_that_lse_includes() -> None:
    q, k, v = inputs(1, 5, heads=2, groups=1, qk=8, v=4)
    plain, lse = reference.attention(q, k, v, return_lse=True)
    sink = torch.tensor([0.7, -3.0], dtype=torch.float64)
    o, lse_sink = reference.attention(q, k, v, sink=sink, return_lse=True)
    assert lse.shape == (1, 2, 5)
    torch.testing.assert_close(lse_sink, torch.logaddexp(lse, sink[None, :, None]))
    kept = torch.sigmoid(lse - sink[None, :, None])
    torch.testing.assert_close(o, plain * kept.transpose(1, 2)[..., None])
    dots = torch.einsum("thd,sd->hts", q[0], k[0, :, 0]) * 8**-0.5
    want = dots.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).logsumexp(-1)
    torch.testing.assert_close(lse[0], want)

    nothing = torch.full((2,), -torch.inf, dtype=torch.float64)
    o, lse_none = reference.attention(q, k, v, sink=nothing, return_lse=True)
    assert o.equal(plain)
    assert lse_none.equal(lse)
    o, lse_all = reference.attention(q, k, v, sink=nothing.nan_to_num(neginf=60), return_lse=True)
    assert o.abs().max() < 1e-20
    torch.testing.assert_close(lse_all, torch.full_like(lse_all, 60))


def test_rows_that_see_nothing() -> None:
    q, k, v = inputs(2, 4, heads=2, groups=2, qk=8, v=4, keys=6)
    lens = torch.tensor([2, 0])
    o, lse = reference.attention(q, k, v, kv_lens=lens, return_lse=True)
    assert o[0, :2].eq(0).all()
    assert o[1].eq(0).all()
    assert (lse[0, :, :2] == -torch.inf).all()
    assert (lse[1] == -torch.inf).all()
    alone = reference.attention(q[:1, 2:], k[:1, :2], v[:1, :2])
    torch.testing.assert_close(o[:1, 2:], alone)
    sink = torch.tensor([1.5, -2.0], dtype=torch.float64)
    o, lse = reference.attention(q, k, v, kv_lens=lens, sink=sink, return_lse=True)
    assert o[1].eq(0).all()
    assert lse[1].equal(sink[:, None].expand(2, 4))


@pytest.mark.parametrize("window", [None, 3])
def test_packed_documents_equal_documents_alone(window: int | None) -> None:
    q_lens, k_lens = [3, 0, 5, 2, 4], [3, 2, 9, 0, 4]
    q, _, _ = inputs(sum(q_lens), heads=4, groups=2, qk=8, v=4)
    _, k, v = inputs(sum(k_lens), heads=4, groups=2, qk=8, v=4, seed=1)
    sink = torch.randn(4, dtype=torch.float64)
    edges = [torch.tensor([0, *lens]).cumsum(0) for lens in (q_lens, k_lens)]
    o, lse = reference.attention_varlen(
        q,
        k,
        v,
        cu_seqlens_q=edges[0],
        cu_seqlens_k=edges[1].int(),
        window_keys=window,
        sink=sink,
        return_lse=True,
    )
    assert lse.shape == (4, sum(q_lens))
    start = 0
    for q_d, k_d, v_d in zip(q.split(q_lens), k.split(k_lens), v.split(k_lens), strict=True):
        want, want_lse = reference.attention(
            q_d[None], k_d[None], v_d[None], window_keys=window, sink=sink, return_lse=True
        )
        rows = slice(start, start + len(q_d))
        assert o[rows].equal(want[0])
        assert lse[:, rows].equal(want_lse[0])
        start += len(q_d)


@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 3, 3), (2, 0, 4), (2, 0, 0), (1, 2, 0)])
def test_empty_problems(batch: int, queries: int, keys: int) -> None:
    q, k, v = inputs(batch, queries, heads=2, groups=1, qk=8, v=4, keys=keys)
    o, lse = reference.attention(q, k, v, return_lse=True)
    assert o.shape == (batch, queries, 2, 4)
    assert o.eq(0).all()
    assert lse.shape == (batch, 2, queries)


@pytest.mark.parametrize("sink", [None, -8.0, 0.0, 8.0])
def test_gradients_of_output_and_lse_together(sink: float | None) -> None:
    q, k, v = (t.requires_grad_() for t in inputs(1, 4, heads=2, groups=1, qk=4, v=3, keys=6))
    sinks = torch.full((2,), sink or 0.0, dtype=torch.float64).requires_grad_()

    def loss(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        given = None if sink is None else sinks
        return reference.attention(q, k, v, window_keys=3, sink=given, return_lse=True)

    assert torch.autograd.gradcheck(loss, (q, k, v, sinks))


def test_the_gradient_of_the_sink_is_the_closed_form() -> None:
    """dSink_h = - sum over rows of exp(sink - lse) * (dO . O - dLSE), sink-only rows included."""
    q, k, v = inputs(1, 6, heads=3, groups=1, qk=8, v=4, keys=4)
    sink = torch.linspace(-8, 8, 3, dtype=torch.float64).requires_grad_()
    o, lse = reference.attention(q, k, v, sink=sink, return_lse=True)
    d_o, d_lse = torch.randn_like(o), torch.randn_like(lse)
    torch.autograd.backward((o, lse), (d_o, d_lse))
    p_sink = (sink[None, :, None] - lse).exp()
    want = -(p_sink * ((d_o * o).sum(-1).transpose(1, 2) - d_lse)).sum((0, 2))
    torch.testing.assert_close(sink.grad, want)


def test_blind_rows_have_zero_gradients_and_no_nan() -> None:
    q, k, v = (t.requires_grad_() for t in inputs(1, 4, heads=2, groups=1, qk=4, v=3, keys=2))
    sink = torch.tensor([-torch.inf, 0.5], dtype=torch.float64).requires_grad_()
    for given in (None, sink):
        o, lse = reference.attention(q, k, v, sink=given, return_lse=True)
        (o.sum() + lse[:, :, 2:].sum()).backward()
        for t in (q, k, v, *([] if given is None else [given])):
            assert t.grad.isfinite().all()
        assert q.grad[0, :2].eq(0).all()


def test_results_are_rounded_once_from_float32() -> None:
    q, k, v = (t.bfloat16() for t in inputs(1, 40, heads=4, groups=2, qk=24, v=16))
    o, lse = reference.attention(q, k, v, return_lse=True)
    exact, exact_lse = reference.attention(*(t.double() for t in (q, k, v)), return_lse=True)
    assert o.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    torch.testing.assert_close(o.double(), exact, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"k": torch.ones(1, 3, 2, 5)}, "k"),
        ({"k": torch.ones(1, 3, 3, 4), "v": torch.ones(1, 3, 3, 4)}, "k"),
        ({"k": torch.ones(2, 3, 2, 4), "v": torch.ones(2, 3, 2, 4)}, "k"),
        ({"v": torch.ones(1, 2, 2, 4)}, "v"),
        ({"sink": torch.ones(3)}, "sink"),
        ({"window_keys": 0}, "window_keys"),
        ({"window_keys": 2, "causal": False}, "causal"),
        ({"kv_lens": torch.tensor([4])}, "kv_lens"),
        ({"kv_lens": torch.tensor([1, 1])}, "kv_lens"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict, argument: str) -> None:
    fine = {"q": torch.ones(1, 3, 4, 4), "k": torch.ones(1, 3, 2, 4), "v": torch.ones(1, 3, 2, 4)}
    with pytest.raises(ShapeError) as caught:
        reference.attention(**(fine | change))
    assert caught.value.argument == argument


@pytest.mark.parametrize("edges", [[0, 2], [1, 3], [0, 2, 1, 3], []])
def test_edges_that_do_not_fit_are_refused(edges: list[int]) -> None:
    q, k = torch.ones(3, 2, 4), torch.ones(3, 1, 4)
    with pytest.raises(ShapeError) as caught:
        reference.attention_varlen(
            q, k, k, cu_seqlens_q=torch.tensor(edges), cu_seqlens_k=torch.tensor([0, 3])
        )
    assert caught.value.argument == "cu_seqlens_q"
