"""Where gradients must be exactly zero, exactly equal, or exactly the same bits."""

import pytest
import torch
from torch import Tensor

from mimo_native import ops

from ..case import FLOATS
from .cases import AttentionCase
from .gradients import gradients, upstream

N = 330
WINDOWS = (1, 2, 127, 128, 129)
HEADS = {"heads": 6, "groups": 2, "qk": 48, "v": 32}


def leaves(*lengths: int, dtype, seed: int = 0) -> list[Tensor]:
    gen = torch.Generator().manual_seed(seed)
    heads = ((4, 24), (2, 24), (2, 16))
    return [
        torch.randn(n, h, d, generator=gen).to(dtype).requires_grad_()
        for n, (h, d) in zip(lengths, heads, strict=True)
    ]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", [*WINDOWS, None])
@pytest.mark.parametrize("packed", [False, True])
def test_a_row_reaches_the_keys_of_its_window_and_no_other(packed: bool, window, dtype) -> None:
    q, k, v = leaves(N, N, N, dtype=dtype)
    sink, lead = torch.linspace(-2, 2, 4), 70
    if packed:  # the sequence is the second document
        edges = torch.tensor([0, lead, lead + N])
        whole = (torch.cat((t[:lead].detach(), t)) for t in (q, k, v))
        o = ops.attention_varlen(
            *whole, cu_seqlens_q=edges, cu_seqlens_k=edges, window_keys=window, sink=sink
        )[lead:]
    else:
        o = ops.attention(q[None], k[None], v[None], window_keys=window, sink=sink)[0]
    keys = torch.arange(N)
    for i in (0, 1, 15, 16, 63, 64, 126, 127, 128, 129, 200, N - 1):
        # One row's loss: random, because sum_j dS_ij = 0 for a constant one without a sink.
        up = torch.zeros_like(o)
        up[i] = torch.randn(up[i].shape, generator=torch.Generator().manual_seed(i)).to(dtype)
        dq, dk, dv = torch.autograd.grad(o, (q, k, v), up, retain_graph=True)
        seen = (keys <= i) & (keys > i - (window or N))
        assert torch.equal(dv.flatten(1).any(1), seen), f"dv of row {i}"
        assert torch.equal(dk.flatten(1).any(1), seen), f"dk of row {i}"
        assert torch.equal(dq.flatten(1).any(1), keys == i), f"dq of row {i}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_documents_do_not_reach_one_another_and_have_the_bits_of_one_alone(dtype) -> None:
    q_lens, k_lens = (5, 0, 300, 1, 4), (5, 3, 310, 0, 2)
    q, k, v = leaves(sum(q_lens), sum(k_lens), sum(k_lens), dtype=dtype)
    sink = torch.linspace(-2, 2, 4).requires_grad_()
    options = {"window_keys": 129, "return_lse": True}
    edges = [torch.tensor([0, *lens]).cumsum(0) for lens in (q_lens, k_lens)]
    o, lse = ops.attention_varlen(
        q, k, v, cu_seqlens_q=edges[0], cu_seqlens_k=edges[1], sink=sink, **options
    )
    up = torch.randn_like(o), torch.randn_like(lse)
    grads = torch.autograd.grad((o, lse), (q, k, v), up)
    for d in range(len(q_lens)):
        rows, keys = (slice(int(e[d]), int(e[d + 1])) for e in edges)
        own = [t[None].detach().requires_grad_() for t in (q[rows], k[keys], v[keys])]
        alone = ops.attention(*own, sink=sink, **options)
        got = torch.autograd.grad(alone, own, (up[0][None, rows], up[1][None, :, rows]))
        for mine, part in zip(got, (grads[0][rows], grads[1][keys], grads[2][keys]), strict=True):
            assert torch.equal(mine[0], part)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_keys_beyond_a_row_have_no_gradient(dtype) -> None:
    case = AttentionCase(queries=20, keys=90, batch=3, kv_lens=(90, 0, 33), dtype=dtype, **HEADS)
    args = case.make()
    # Whatever stands there.
    args["k"][1:, 40:] = torch.nan
    args["v"][1:, 40:] = torch.nan
    _, dk, dv = gradients(ops.attention, args, upstream(case, args))
    for row, keys in enumerate(case.kv_lens):
        assert not dk[row, keys:].any()
        assert not dv[row, keys:].any()
        assert keys == 0 or dk[row, :keys].flatten(1).any(1).all()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (4, 0)])
def test_empty_sequences(size: tuple[int, int]) -> None:
    queries, keys = size
    q, k, v = leaves(queries, keys, keys, dtype=torch.bfloat16)
    sink = torch.randn(4, requires_grad=True)
    o, lse = ops.attention(q[None], k[None], v[None], sink=sink, return_lse=True)
    grads = torch.autograd.grad(o.sum() + lse.sum(), (q, k, v, sink))
    assert not any(g.any() for g in grads[:3])
    assert torch.equal(grads[3], torch.full((4,), float(queries)))
    none = torch.tensor([0])
    packed = {"cu_seqlens_q": none, "cu_seqlens_k": none}
    if not queries and not keys:
        o = ops.attention_varlen(q, k, v, sink=sink, **packed)
        assert not torch.autograd.grad(o.sum(), sink)[0].any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("window", [129, None])
def test_thread_counts_do_not_change_bits(isa: str, window, dtype) -> None:
    case = AttentionCase(queries=800, heads=4, groups=2, qk=32, v=16, window=window,
                         sink="spread", dtype=dtype)  # fmt: skip
    args = case.make()
    up = upstream(case, args)
    want = gradients(ops.attention, args, up)
    threads = torch.get_num_threads()
    try:
        for n in (2, 3):
            torch.set_num_threads(n)
            assert all(map(torch.equal, gradients(ops.attention, args, up), want))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_strides_are_honoured(dtype) -> None:
    """Inputs and the incoming gradient with heads before tokens; expanded gradients."""
    case = AttentionCase(queries=90, batch=2, window=50, sink="spread", dtype=dtype, **HEADS)
    args = case.make()
    up = upstream(case, args)
    want = gradients(ops.attention, args, up)
    turned = {n: args[n].transpose(1, 2).contiguous().transpose(1, 2) for n in ("q", "k", "v")}
    strided = type(up)(up.dout.transpose(1, 2).contiguous().transpose(1, 2), up.dlse)
    assert not strided.dout.is_contiguous()
    got = gradients(ops.attention, {**args, **turned}, strided)
    assert all(map(torch.equal, got, want))
    ones = type(up)(torch.ones_like(up.dout), up.dlse)
    q = args["q"].requires_grad_()
    o = ops.attention(**{**args, "return_lse": False})
    summed = torch.autograd.grad(o.sum(), q)[0]  # its gradient has strides of zero
    ones = type(up)(ones.dout, torch.zeros_like(up.dlse))
    assert torch.equal(summed, gradients(ops.attention, args, ones)[0])


def test_results_do_not_depend_on_what_memory_held_before() -> None:
    case = AttentionCase(queries=270, window=33, dtype=torch.bfloat16, sink="spread", **HEADS)
    args = case.make()
    up = upstream(case, args)
    want = gradients(ops.attention, args, up)
    bad = {n: torch.full_like(args[n], torch.nan) for n in ("q", "k", "v")}
    gradients(ops.attention, {**args, **bad}, up)
    assert all(map(torch.equal, gradients(ops.attention, args, up), want))


def test_a_gradient_of_a_gradient_is_refused() -> None:
    q, k, v = (t[None] for t in leaves(6, 6, 6, dtype=torch.float32))
    (dq,) = torch.autograd.grad(ops.attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()
