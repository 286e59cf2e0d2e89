"""LoRA: frozen weights W, trained as W + alpha / rank * B A with narrow A and B.

What runs is the sum itself, rounded to the weights' dtype, so merging changes no bit; a state dict
and an exported model hold the sum under the hub's names. q, k and v, or gate and up, which lie in
one matrix here, share their A; every expert has an A and a B of its own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedError
from ..nn.weight import Part, Weight

__all__ = ["AdaptedWeight", "LoRAConfig", "adapt", "attach_lora", "merge_lora"]

_TARGETS = ("qkv", "o", "gate_up", "down", "eh")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """rank and alpha of every adapter, and which weights inside the layers have one.

    targets: of "qkv", "o" (attention), "gate_up", "down" (dense layers and experts), "eh" (the
    projection of MTP heads).
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("qkv", "o", "gate_up", "down")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        known = self.targets and set(self.targets) <= set(_TARGETS)
        if self.rank < 1 or not self.alpha > 0 or not known:
            raise ShapeError(
                "LoRAConfig",
                "rank, alpha, targets",
                expected=f"rank >= 1, alpha > 0, targets among {', '.join(_TARGETS)}",
                got=f"{self.rank}, {self.alpha}, {self.targets}",
            )


class AdaptedWeight(Weight):
    """A Weight whose matrix is ``base`` + scale * b @ a, of which only a and b are trained."""

    base: nn.Parameter  # [N, K] or [E, N, K]
    a: nn.Parameter  # [rank, K] or [E, rank, K]
    b: nn.Parameter  # [N, rank] or [E, N, rank]
    scale: float

    @property
    def weight(self) -> Tensor:
        return self.base + self.scale * (self.b @ self.a)

    @property
    def packed(self) -> bool:
        return False

    def merge(self) -> None:
        """Become a plain Weight of the same matrix."""
        weight = self.weight.detach()
        for name in ("base", "a", "b"):
            del self._parameters[name]
        self.__class__ = Weight
        self.weight = nn.Parameter(weight)

    def pack(self, format: str | None = None) -> None:
        self.merge()
        self.pack(format)

    def take(self, part: Part, tensor: Tensor) -> None:
        raise UnsupportedError(
            "load_state_dict",
            [f"{part.hub_name} has an adapter, and a state dict holds sums with it"],
            remedy="Load first, then attach_lora.",
        )


def attach_lora(model: nn.Module, config: LoRAConfig, *, seed: int = 0) -> None:
    """Freeze ``model`` and give its weights adapters: A random as ``seed`` says, B zero.

    Raises UnsupportedError where weights are packed, have adapters already, or none is a target.
    """
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, Weight) and name.rpartition(".")[2] in config.targets
    ]
    reasons = [] if found else ["none of its weights is a target"]
    if any(module.packed for module in found):
        reasons.append("its weights are packed: call model.unpack() first")
    if any(isinstance(module, AdaptedWeight) for module in found):
        reasons.append("it has adapters already: call merge_lora first")
    if reasons:
        raise UnsupportedError("attach_lora", reasons)
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for module in found:
        *experts, rows, columns = module.weight.shape
        a = torch.randn(*experts, config.rank, columns, generator=generator) / columns**0.5
        b = module.weight.new_zeros(*experts, rows, config.rank)
        adapt(module, a.to(module.weight.dtype), b, config.alpha / config.rank)


def merge_lora(model: nn.Module) -> None:
    """Make the adapted weights plain ones; what the model computes stays the same, bit for bit."""
    for module in model.modules():
        if isinstance(module, AdaptedWeight):
            module.merge()


def adapt(module: Any, a: Tensor, b: Tensor, scale: float) -> None:
    """Make a Weight the sum of itself, frozen, and ``scale`` * ``b`` @ ``a``, of its dtype."""
    base = module.weight.detach()
    del module._parameters["weight"]
    module.__class__ = AdaptedWeight
    module.base = nn.Parameter(base, requires_grad=False)
    module.a, module.b, module.scale = nn.Parameter(a), nn.Parameter(b), scale
