"""Losses over a vocabulary against the float64 reference, and the bits that sampling reports."""

import pytest
import torch

import mimo_native as mn
from mimo_native import ops

from ..case import FLOATS, Case, check_case, normal
from .cases import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case, isa: str) -> None:
    check_case(case, getattr(ops, case.op))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab", [1, 33, 1024, 5003])
def test_the_bits_of_the_sampler(
    isa: str, dtype: torch.dtype, temperature: float, vocab: int
) -> None:
    hidden = normal(19, 70, seed=0, dtype=dtype)
    weight = normal(vocab, 70, seed=1, dtype=dtype, std=0.3)
    logits = ops.linear(hidden, weight, out_dtype=torch.float32)
    ids, logprobs = ops.sample(
        logits,
        seed=torch.arange(19),
        position=torch.arange(19),
        temperature=torch.full((19,), temperature),
    )
    for w in (weight, ops.pack(weight, format="f32" if dtype == torch.float32 else "bf16")):
        assert ops.linear_logprob(hidden, w, ids, temperature=temperature).equal(logprobs)
        # A row's bits depend on no other row.
        alone = [
            ops.linear_logprob(hidden[i : i + 1], w, ids[i : i + 1], temperature=temperature)
            for i in (0, 7, 18)
        ]
        assert torch.cat(alone).equal(logprobs[[0, 7, 18]])
    if temperature == 1.0:
        losses = ops.linear_cross_entropy(hidden, weight, ids, reduction="none")
        assert losses.equal(-logprobs)


@pytest.mark.parametrize("format", ["e4m3_128x128", "int8_row", "int8_32", "int4_32", "mxfp4"])
def test_coded_heads(isa: str, format: str) -> None:
    hidden = normal(19, 96, seed=0, dtype=torch.bfloat16).requires_grad_()
    weight = ops.pack(normal(1500, 96, seed=1, dtype=torch.float32, std=0.1), format=format)
    with torch.no_grad():
        logits = ops.linear(hidden, weight, out_dtype=torch.float32)
    ids, logprobs = ops.sample(logits, seed=torch.arange(19), position=torch.arange(19))
    got = ops.linear_logprob(hidden, weight, ids)
    assert got.equal(logprobs)
    (grad,) = torch.autograd.grad(got.sum(), hidden)
    wide = hidden.detach().double().requires_grad_()
    want = mn.reference.linear_logprob(wide, weight.unpack().double(), ids)
    (want,) = torch.autograd.grad(want.sum(), wide)
    assert float((grad.double() - want).abs().max()) < 0.01 * float(want.abs().max())


def test_the_bits_of_the_engine() -> None:
    """What generation reports for a token is what training computes for it."""
    config = mn.MiMoConfig.tiny()
    model = mn.MiMoForCausalLM(config).init_weights(std=0.2).to(torch.bfloat16)
    prompt = [5, 6, 7]
    sampling = mn.Sampling(temperature=1.0, max_tokens=20, seed=3, logprobs=True, ignore_eos=True)
    with torch.no_grad():
        [done] = mn.generate(model, [prompt], sampling=sampling)
        hidden = model(torch.tensor([prompt + done.token_ids]), logits="none").hidden[0]
        rows = model.model.norm(hidden[len(prompt) - 1 : -1])
        got = ops.linear_logprob(rows, model.head.weight, torch.tensor(done.token_ids))
    assert got.tolist() == done.logprobs


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    hidden = normal(40, 70, seed=0, dtype=dtype).requires_grad_()
    weight = normal(9001, 70, seed=1, dtype=dtype).requires_grad_()
    ids = torch.randint(9001, (40,), generator=torch.Generator().manual_seed(0))

    def everything() -> list[torch.Tensor]:
        loss = ops.linear_cross_entropy(hidden, weight, ids)
        return [loss, *torch.autograd.grad(loss, (hidden, weight))]

    one = everything()
    torch.set_num_threads(2)
    two = everything()
    torch.set_num_threads(1)
    assert all(a.equal(b) for a, b in zip(one, two, strict=True))


def test_no_row_has_a_target() -> None:
    hidden = normal(5, 8, seed=0, dtype=torch.float32).requires_grad_()
    weight = normal(30, 8, seed=1, dtype=torch.float32).requires_grad_()
    for reduction in ("mean", "sum", "none"):
        targets = torch.full((5,), 7)
        loss = ops.linear_cross_entropy(
            hidden, weight, targets, ignore_index=7, reduction=reduction
        )
        assert not loss.any()
        for grad in torch.autograd.grad(loss.sum(), (hidden, weight)):
            assert not grad.any()


def test_a_number_that_is_none_shows() -> None:
    hidden, weight = torch.ones(3, 4), torch.ones(2000, 4)
    hidden[1, 2] = torch.nan
    targets = torch.zeros(3, dtype=torch.int64)
    got = ops.linear_cross_entropy(hidden, weight, targets, reduction="none")
    assert got.isnan().tolist() == [False, True, False]
