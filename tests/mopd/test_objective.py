"""Loss and gradients of whole batches against sequences run one by one in float64."""

import pytest
import torch
from torch import Tensor

import mimo_native as mn
from mimo_native.mopd import LossConfig
from mimo_native.mopd.batch import pack_answers, split
from mimo_native.mopd.objective import PolicyBatch, PolicyObjective, SftObjective
from mimo_native.mopd.policy import token_shares

from ..pretrain.models import random_model, tiny

PAIRS = [((3, 9, 4), (7, 8)), ((5,), (6, 2, 11, 1)), ((12, 13), (14,))]
TEMPERATURE = 1.3


@pytest.fixture
def model() -> mn.MiMoForCausalLM:
    config = tiny(hybrid_layer_pattern=(0, 1), moe_layer_freq=(0, 1), num_mtp_layers=2)
    return random_model(config).requires_grad_(True)


@pytest.fixture(autouse=True)
def in_reference() -> object:
    with mn.backends.use("reference"):
        yield


def answers_logits(
    model: mn.MiMoForCausalLM, prompt: tuple[int, ...], answer: tuple[int, ...]
) -> Tensor:
    """Log-probabilities at every position that predicts a token of the answer: [tokens, V]."""
    ids = torch.tensor([[*prompt, *answer][:-1]])
    logits = model(ids).logits[0, len(prompt) - 1 :]
    return (logits / TEMPERATURE).log_softmax(-1)


def test_pack_answers() -> None:
    batch = pack_answers(PAIRS)
    flat = batch.ids.tolist()
    assert flat == [3, 9, 4, 7, 5, 6, 2, 11, 12, 13]
    assert batch.cu_seqlens.tolist() == [0, 4, 8, 10]
    assert [flat[i] for i in batch.rows.tolist()] == [4, 7, 5, 6, 2, 11, 13]
    assert batch.targets.tolist() == [7, 8, 6, 2, 11, 1, 14]
    assert batch.answers.tolist() == [2, 4, 1]
    assert batch.whole.ids[batch.kept].tolist() == flat
    assert batch.whole.lengths.tolist() == [5, 5, 3]


def test_split_keeps_order_and_bounds() -> None:
    groups = split([3, 4, 9, 1, 2, 2], lambda n: n, 7)
    assert groups == [[3, 4], [9], [1, 2, 2]]


FORMS = [
    LossConfig(),
    LossConfig(alpha=0.4, normalise="token"),
    LossConfig(mismatch="truncate", advantage_clip=0.1),
    LossConfig(form="full"),
    LossConfig(form="full", alpha=0.4, mismatch="none"),
    LossConfig(form="top_k", top_k=5),
    LossConfig(form="top_k", top_k=5, correction="tail"),
]


def distances(logp: Tensor, logt: Tensor, config: LossConfig) -> Tensor:
    """The divergence at every position, from whole distributions."""
    if config.form == "full":
        return (logp.exp() * (logp - logt)).sum(-1)
    ids = logt.topk(config.top_k, -1).indices
    p, t = logp.gather(-1, ids), logt.gather(-1, ids)
    inside = (p.exp() * (p - t)).sum(-1)
    if config.correction == "mass":
        return inside - p.exp().sum(-1) + t.exp().sum(-1)
    rest_p, rest_t = 1 - p.exp().sum(-1), 1 - t.exp().sum(-1)
    return inside + rest_p * (rest_p.log() - rest_t.log())


@pytest.mark.parametrize("config", FORMS, ids=[f"{c.form}-{i}" for i, c in enumerate(FORMS)])
def test_every_form(model: mn.MiMoForCausalLM, config: LossConfig) -> None:
    teacher = random_model(model.config, seed=5)
    generator = torch.Generator().manual_seed(1)
    noise = [0.4 * torch.randn(len(a), generator=generator).double() for _, a in PAIRS]
    outcomes = [1.0, -0.5, 0.25]

    lengths = torch.tensor([len(a) for _, a in PAIRS])
    total, expected = int(lengths.sum()), torch.zeros((), dtype=torch.float64)
    sampler, taught, hidden = [], [], []
    for (prompt, answer), shift, outcome in zip(PAIRS, noise, outcomes, strict=True):
        logp = answers_logits(model, prompt, answer)
        with torch.no_grad():
            logt = answers_logits(teacher, prompt, answer)
            ids = torch.tensor([[*prompt, *answer][:-1]])
            h = teacher(ids, logits="none").hidden[0, len(prompt) - 1 :]
            hidden.append(teacher.model.norm(h))
        at = torch.tensor(answer)[:, None]
        p, t = logp.gather(-1, at)[:, 0], logt.gather(-1, at)[:, 0]
        mu = p.detach() + shift
        ratio = (p.detach() - mu).exp()
        if config.mismatch == "icepop":
            ratio = torch.where((ratio < 0.5) | (ratio > 5.0), 0.0, ratio)
        elif config.mismatch == "truncate":
            ratio = ratio.clamp(0.5, 5.0)
        else:
            ratio = torch.ones_like(ratio)
        advantage = torch.full_like(p, config.alpha * outcome)
        if config.form == "sampled":
            clip = config.advantage_clip or float("inf")
            advantage = advantage + (t - p.detach()).clamp(-clip, clip)
        terms = -ratio * advantage.detach() * p
        if config.form != "sampled":
            terms = terms + ratio * distances(logp, logt, config)
        share = len(PAIRS) * len(answer) if config.normalise == "sequence" else total
        expected = expected + terms.sum() / share
        sampler.append(mu)
        taught.append(t)
    expected.backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    batch = PolicyBatch(
        answers=pack_answers(PAIRS),
        sampler=torch.cat(sampler),
        outcome=torch.repeat_interleave(torch.tensor(outcomes).double(), lengths),
        share=token_shares(lengths, config.normalise, len(PAIRS), total).double(),
        teacher=torch.cat(taught),
        teacher_hidden=torch.cat(hidden),
        teacher_head=teacher.head.weight,
    )
    terms = PolicyObjective(model, config, temperature=TEMPERATURE)(batch)
    terms.loss.backward()
    # Shares are float32.
    torch.testing.assert_close(terms.loss, expected, rtol=1e-6, atol=1e-7)
    for name, parameter in model.named_parameters():
        if name in want:
            torch.testing.assert_close(parameter.grad, want[name], rtol=1e-5, atol=1e-7)


def test_replayed_experts_are_used_and_recomputed(model: mn.MiMoForCausalLM) -> None:
    answers = pack_answers(PAIRS)
    n = answers.ids.shape[0]
    experts, k = model.config.n_routed_experts, model.config.num_experts_per_tok
    generator = torch.Generator().manual_seed(0)
    replay = torch.stack(
        [torch.randperm(experts, generator=generator)[:k] for _ in range(n)]
    ).int()[None]
    batch = PolicyBatch(
        answers=answers,
        sampler=torch.zeros(7).double(),
        outcome=torch.ones(7).double(),
        share=torch.ones(7).double(),
        replay_ids=replay,
    )
    config = LossConfig(mismatch="none", alpha=1.0)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        terms = PolicyObjective(model, config, temperature=TEMPERATURE, recompute=recompute)(batch)
        terms.loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        counted = torch.bincount(replay.flatten().long(), minlength=experts)
        assert terms.counts[0].tolist() == counted.tolist()
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    cut = answers.cu_seqlens.tolist()
    for i, (prompt, answer) in enumerate(PAIRS):
        ids = torch.tensor([[*prompt, *answer][:-1]])
        own = replay[:, None, cut[i] : cut[i + 1]]
        logits = model(ids, replay_ids=own).logits[0, len(prompt) - 1 :]
        logp = (logits / TEMPERATURE).log_softmax(-1)
        at = sum(len(a) for _, a in PAIRS[:i])
        torch.testing.assert_close(
            terms.policy[at : at + len(answer)],
            logp.gather(-1, torch.tensor(answer)[:, None])[:, 0].detach(),
        )


def test_mtp_trains_the_heads_alone(model: mn.MiMoForCausalLM) -> None:
    answers = pack_answers(PAIRS)
    batch = PolicyBatch(
        answers=answers,
        sampler=torch.zeros(7).double(),
        outcome=torch.ones(7).double(),
        share=torch.ones(7).double(),
    )
    config = LossConfig(mismatch="none", alpha=1.0)

    def gradients(weight: float, totals: tuple[int, ...]) -> dict[str, Tensor]:
        model.zero_grad()
        PolicyObjective(model, config, mtp_weight=weight)(batch, totals).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    without, together = gradients(0.0, ()), gradients(0.1, (7, 4))
    heads = {name for name in together if ".mtp." in name}
    assert heads
    assert set(without) == set(together) - heads
    assert all(torch.equal(without[name], together[name]) for name in without)

    # The heads' own loss, sequence by sequence: head k at i takes h_i and token i + 1 + k.
    model.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for prompt, answer in PAIRS:
        whole = torch.tensor([*prompt, *answer])
        with torch.no_grad():
            hidden = model(whole[None], logits="none").hidden
        for k, count in enumerate((7, 4)):
            length = len(whole) - k - 2
            if length <= 0:
                continue
            out = model.mtp(k, whole[None, 1 + k : 1 + k + length], hidden[:, :length])
            logp = out.logits[0].log_softmax(-1)
            loss = loss - 0.1 / 2 * logp.gather(-1, whole[k + 2 :, None]).sum() / count
    loss.backward()
    for name in heads:
        want = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(together[name], want, rtol=1e-9, atol=1e-12)


def test_sft_learns_the_answers_alone(model: mn.MiMoForCausalLM) -> None:
    expected = torch.zeros((), dtype=torch.float64)
    for prompt, answer in PAIRS:
        logits = model(torch.tensor([[*prompt, *answer][:-1]])).logits[0, len(prompt) - 1 :]
        expected = expected - logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum()
    (expected / 7).backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss, total, _ = SftObjective(model)(pack_answers(PAIRS), 7)
    loss.backward()
    torch.testing.assert_close(total, expected.detach(), rtol=1e-9, atol=0)
    for name, parameter in model.named_parameters():
        if name in want:
            torch.testing.assert_close(parameter.grad, want[name], rtol=1e-9, atol=1e-12)
