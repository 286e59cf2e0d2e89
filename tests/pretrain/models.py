"""Small models and batches that several tests share."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

import mimo_native as mn
from mimo_native.nn.weight import Weight
from mimo_native.training.batch import MicroBatch

Documents = list[list[int]]


def tiny(**changes: object) -> mn.MiMoConfig:
    return replace(mn.MiMoConfig.tiny(), **changes)


def random_model(
    config: mn.MiMoConfig, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> mn.MiMoForCausalLM:
    """Every tensor random, norms near 1, sinks and balancing biases too."""
    model = mn.MiMoForCausalLM(config).init_weights(std=0.1, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model.to(dtype)


def random_rows(lengths: list[list[int]], *, vocab: int = 256, seed: int = 0) -> list[Documents]:
    """Rows of documents of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in row]
        for row in lengths
    ]


def micro_batch(rows: list[Documents]) -> MicroBatch:
    ids = [token for row in rows for document in row for token in document]
    lengths = [len(document) for row in rows for document in row]
    return MicroBatch(torch.tensor(ids), torch.tensor(lengths), len(rows))


def hub_gradients(model: mn.MiMoForCausalLM) -> Iterator[tuple[str, Tensor | None]]:
    """Gradients under the checkpoint's names: fused and stacked weights taken apart."""
    for prefix, module in model.named_modules():
        parent = prefix.rpartition(".")[0]
        if isinstance(module, Weight):
            for part in module.parts():
                name = f"{parent}.{part.hub_name}" if parent else part.hub_name
                grad = module.weight.grad
                if grad is not None:
                    grad = grad if part.expert is None else grad[part.expert]
                    grad = grad[part.start : part.stop]
                yield name, grad
        else:
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{prefix}.{name}", parameter.grad
