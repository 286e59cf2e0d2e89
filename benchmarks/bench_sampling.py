"""The sampler over the full vocabulary; torch draws with the usual recipe and gives no log-prob."""

import pytest
import torch
from tests.sampling.cases import BENCHMARKS, SampleCase

import mimo_native as mn


def torch_sample(logits, temperature=None, top_k=None, top_p=None):
    if temperature is not None and not temperature.any():
        return logits.argmax(-1)
    if temperature is not None:
        logits = logits / temperature[:, None]
    if top_k is not None:
        best = logits.topk(int(top_k[0]), dim=-1)
        return best.indices.gather(-1, torch.multinomial(best.values.softmax(-1), 1))
    if top_p is not None:
        ranked = logits.sort(dim=-1, descending=True)
        p = ranked.values.softmax(-1)
        p = p.masked_fill(p.cumsum(-1) - p >= top_p[:, None], 0.0)
        return ranked.indices.gather(-1, torch.multinomial(p, 1))
    return torch.multinomial(logits.softmax(-1), 1)


@pytest.mark.parametrize("case", BENCHMARKS, ids=str)
def test_sample(compare, case: SampleCase) -> None:
    args = case.make()
    controls = {name: args[name] for name in ("temperature", "top_k", "top_p")}
    compare(
        ours=lambda: mn.ops.sample(**args),
        torch=lambda: torch_sample(args["logits"], **controls),
        flops=case.flops,
        bytes=case.bytes,
        dtype=case.dtype,
    )
