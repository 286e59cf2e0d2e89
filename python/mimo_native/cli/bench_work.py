"""The work of ``mimo-native bench model``, and what it must read and compute at least."""

import statistics
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..nn import MiMoForCausalLM

__all__ = ["CHUNK", "WARM_TOKENS", "WORK", "Decode", "Prefill", "make_work", "weight_bytes"]

WARM_TOKENS = 16  # already in the cache when decoding starts
CHUNK = 512  # tokens of one pass of a prefill, as the engine's
WORK = ("decode B=1", "decode B=8", "prefill 512", "prefill 2048")


def make_work(
    name: str, model: "MiMoForCausalLM", clock: Callable[[], float]
) -> "Decode | Prefill":
    """A name of WORK, ready to be called."""
    kind, size = name.split()
    if kind == "decode":
        return Decode(model, int(size.removeprefix("B=")), clock)
    return Prefill(model, int(size), clock)


class Decode:
    """Greedy decoding from a short context; called, it returns tokens per second."""

    steps = 32

    def __init__(self, model: "MiMoForCausalLM", batch: int, clock: Callable[[], float]) -> None:
        import torch

        self.model, self.batch, self.clock = model, batch, clock
        self.cache = model.new_cache(batch, WARM_TOKENS + self.steps)
        self.prompt = torch.randint(0, model.config.vocab_size, (batch, WARM_TOKENS))
        self.routing: list[object] = []

    def __call__(self) -> float:
        for row in range(self.batch):
            self.cache.reset(row)
        ids = self.model(self.prompt, cache=self.cache, logits="last").logits.argmax(-1)[:, None]
        began = self.clock()
        for _ in range(self.steps):
            out = self.model(ids, cache=self.cache, logits="last")
            ids = out.logits.argmax(-1)[:, None]
            self.routing.append(out.routing)
        return self.batch * self.steps / (self.clock() - began)

    def per_token(self) -> float:
        """Bytes of weights: of experts, those that some token of the batch chose."""
        fixed, per_expert = _read_bytes(self.model)
        hit = [
            sum(layer.unique().numel() for layer in routing)
            for routing in self.routing
            if routing is not None
        ]
        return (fixed + per_expert * (statistics.mean(hit) if hit else 0)) / self.batch


class Prefill:
    """A prompt from an empty cache, in chunks; called, it returns tokens per second."""

    def __init__(self, model: "MiMoForCausalLM", tokens: int, clock: Callable[[], float]) -> None:
        import torch

        self.model, self.tokens, self.clock = model, tokens, clock
        self.cache = model.new_cache(1, tokens)
        self.prompt = torch.randint(0, model.config.vocab_size, (1, tokens))

    def __call__(self) -> float:
        self.cache.reset(0)
        began = self.clock()
        for first in range(0, self.tokens, CHUNK):
            chunk = self.prompt[:, first : first + CHUNK]
            last = first + CHUNK >= self.tokens
            self.model(chunk, cache=self.cache, logits="last" if last else "none")
        return self.tokens / (self.clock() - began)

    def per_token(self) -> float:
        """Operations of the layers, and of attention over the keys that each token sees."""
        config, total = self.model.config, 0.0
        for i, layer in enumerate(self.model.model.layers):
            c = config.layer(i)
            total += 2 * (layer.self_attn.qkv.weight.shape.numel())
            total += 2 * (layer.self_attn.o.weight.shape.numel())
            active = config.num_experts_per_tok if c.moe else 1
            total += 2 * active * 3 * c.intermediate_size * config.hidden_size
            seen = sum(min(p + 1, c.window_keys or p + 1) for p in range(self.tokens))
            total += 2 * seen / self.tokens * c.num_q_heads * (c.head_dim + c.v_head_dim)
        return total


# ---------------------------------------------------------------------- bytes


def weight_bytes(model: "MiMoForCausalLM") -> int:
    """Of parameters, buffers and packed weights."""
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values()) + sum(w.weight.nbytes for w in _packed(model))


def _read_bytes(model: "MiMoForCausalLM") -> tuple[float, float]:
    """Bytes that every step of the main model reads, and those of one expert."""
    fixed, expert = float(model.head.weight.nbytes), 0.0
    for weight in _packed(model.model.layers):
        if weight.experts is None:
            fixed += weight.weight.nbytes
    for layer in model.model.layers:
        experts = getattr(layer.mlp, "experts", None)
        if experts is not None:
            both = experts.gate_up.weight.nbytes + experts.down.weight.nbytes
            expert = both / experts.gate_up.experts
    return fixed, expert


def _packed(module: object) -> Iterator[object]:
    from ..nn import Weight

    return (m for m in module.modules() if isinstance(m, Weight) and m.packed)
