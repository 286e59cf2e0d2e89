"""Random whole models: head dims, windows, sinks, experts, groups and MTP blocks of any size."""

import copy
from dataclasses import replace
from random import Random

import torch

import mimo_native as mn
from mimo_native import backends
from mimo_native.testing import simulated_gpu

__all__ = ["check_model", "check_model_on_gpu", "draw_config"]


def draw_config(rng: Random) -> mn.MiMoConfig:
    layers, n_group = rng.randrange(1, 5), rng.choice((1, 1, 2, 4))
    experts = n_group * rng.randrange(2, 5)
    groups, swa_groups = rng.randrange(1, 4), rng.randrange(1, 4)
    dim, swa_dim = rng.choice((8, 12, 16, 24, 40, 64)), rng.choice((8, 16, 20, 24, 48))
    rotary, swa_rotary = (2 * rng.randrange(1, d // 2 + 1) / d for d in (dim, swa_dim))
    return mn.MiMoConfig(
        vocab_size=rng.choice((17, 64, 100, 513)),
        hidden_size=rng.choice((16, 33, 48, 70, 96)),
        hybrid_layer_pattern=tuple(rng.randrange(2) for _ in range(layers)),
        moe_layer_freq=tuple(rng.randrange(2) for _ in range(layers)),
        num_attention_heads=groups * rng.randrange(1, 5),
        num_key_value_heads=groups,
        head_dim=dim,
        v_head_dim=rng.choice((6, 8, 16, 20, 32)),
        swa_num_attention_heads=swa_groups * rng.randrange(1, 5),
        swa_num_key_value_heads=swa_groups,
        swa_head_dim=swa_dim,
        swa_v_head_dim=rng.choice((6, 8, 16, 24)),
        intermediate_size=rng.choice((16, 33, 50)),
        window_keys=rng.choice((1, 2, 3, 8, 33, 64, 129)),
        rope_theta=1e4,
        swa_rope_theta=1e3,
        partial_rotary_factor=rotary,
        swa_partial_rotary_factor=swa_rotary,
        attention_value_scale=rng.choice((1.0, 0.7)),
        add_swa_attention_sink_bias=rng.random() < 0.5,
        add_full_attention_sink_bias=rng.random() < 0.5,
        n_routed_experts=experts,
        num_experts_per_tok=rng.randrange(1, min(experts // n_group, 4) + 1),
        moe_intermediate_size=rng.choice((8, 17, 32)),
        n_group=n_group,
        topk_group=rng.randrange(1, n_group + 1),
        norm_topk_prob=rng.random() < 0.8,
        routed_scaling_factor=rng.choice((1.0, 2.5)),
        tie_word_embeddings=rng.random() < 0.3,
        num_mtp_layers=rng.randrange(4),
    )


def _served_on_gpu(config: mn.MiMoConfig) -> mn.MiMoConfig:
    """With head dims that are multiples of 8."""
    names = ("head_dim", "v_head_dim", "swa_head_dim", "swa_v_head_dim")
    dims = {name: max(8, getattr(config, name) // 8 * 8) for name in names}
    halves = {"partial_rotary_factor": 0.5, "swa_partial_rotary_factor": 0.5}
    return replace(config, **dims, **halves)


def _prompts(rng: Random, vocab: int) -> list[list[int]]:
    count = rng.randrange(1, 4)
    return [[rng.randrange(vocab) for _ in range(rng.randrange(1, 60))] for _ in range(count)]


@torch.no_grad()
def check_model(number: int) -> None:
    """Logits against the float64 reference; packed weights, batches, chunks and speculation leave
    every bit or token as it is."""
    rng = Random(f"model {number}")
    config = draw_config(rng)
    model = mn.MiMoForCausalLM(config).init_weights(std=0.2, seed=number)
    prompts = _prompts(rng, config.vocab_size)
    sampling = mn.Sampling(max_tokens=rng.randrange(1, 20), temperature=0, ignore_eos=True)
    wide = copy.deepcopy(model).double()
    packed = copy.deepcopy(model).pack()
    alone = [mn.generate(packed, [prompt], sampling=sampling)[0].token_ids for prompt in prompts]
    for prompt, answer in zip(prompts, alone, strict=True):
        ids = torch.tensor([prompt + answer])
        got = model(ids).logits
        with backends.use("reference"):
            want = wide(ids).logits
        assert (got - want).abs().max() <= 1e-4 * want.abs().max(), "logits"
        assert packed(ids).logits.equal(got), "bits of packed weights"
        assert got[0, len(prompt) - 1 : -1].argmax(-1).tolist() == answer, "greedy tokens"
    for options in ({}, {"speculative": "auto"}, {"max_batch": 1}):
        together = mn.generate(packed, prompts, sampling=sampling, **options)
        assert [done.token_ids for done in together] == alone, options


def check_model_on_gpu(number: int, schedule: str) -> None:
    """Plain and speculative decoding on the simulated GPU give the CPU's tokens."""
    rng = Random(f"model {number}")
    config = _served_on_gpu(draw_config(rng))
    model = mn.MiMoForCausalLM(config).init_weights(std=0.2, seed=number).requires_grad_(False)
    prompts = _prompts(rng, config.vocab_size)
    sampling = mn.Sampling(
        max_tokens=rng.randrange(1, 8), temperature=rng.choice((0, 1)), seed=number, ignore_eos=True
    )
    drafts = rng.choice((None, "auto", "chain")) if config.num_mtp_layers else None
    options = {"speculative": drafts} if drafts else {}
    want = [done.token_ids for done in mn.generate(model, prompts, sampling=sampling)]
    with simulated_gpu(capability=(8, 0), schedule=schedule, metrics=False):
        got = mn.generate(model, prompts, sampling=sampling, **options)
    assert [done.token_ids for done in got] == want
