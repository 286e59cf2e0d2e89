"""Layers of the released model's width and weight format, with random weights.

For ``mimo-native bench model --model released-layers``: what a machine does with MiMo-V2-Flash
whose memory holds a few of its layers only.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..nn import MiMoForCausalLM, Weight

__all__ = ["RELEASED_LAYERS", "released_layers"]

RELEASED_LAYERS = "released-layers"  # among the names of models
_FORMAT = "e4m3_128x128"


def released_layers(*, experts: int = 256) -> "MiMoForCausalLM":
    """The first, dense layer and one of ``experts`` experts, 7 GB with 256; a vocabulary of 1024.

    All experts of a layer hold the same codes, each its own copy: filling them takes seconds where
    drawing them would take a minute. The router's weights are random, so its choice is spread.
    """
    import torch
    from torch import nn

    from .. import MiMoConfig
    from ..nn import Attention, MiMoForCausalLM, Router, Weight

    config = replace(
        MiMoConfig.mimo_v2_flash(),
        hybrid_layer_pattern=(0, 1),
        moe_layer_freq=(0, 1),
        n_routed_experts=experts,
        vocab_size=1024,
        eos_token_id=None,
        pad_token_id=None,
        num_mtp_layers=0,
    )
    with torch.device("meta"):
        model = MiMoForCausalLM(config).to(torch.bfloat16)
    # As released: neither the head nor attention's outputs nor the router are quantised.
    values = [m.proj for m in model.modules() if isinstance(m, Router)]
    values += [model.head, *(m.o for m in model.modules() if isinstance(m, Attention))]
    for module in model.modules():
        if isinstance(module, Weight) and not any(module is m for m in values):
            _fill(module)
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                module._parameters[name] = nn.Parameter(_drawn(name, tensor), requires_grad=False)
        for name, tensor in module._buffers.items():
            module._buffers[name] = _drawn(name, tensor)
    return model.pack()


def _drawn(name: str, like: "Tensor") -> "Tensor":
    import torch

    drawn = torch.randn(like.shape, device="cpu") * 0.02
    return (drawn + (like.ndim == 1 and name == "weight")).to(like.dtype)  # norms: about 1


def _fill(module: "Weight") -> None:
    import torch

    from .. import ops

    packed = ops.PackedWeight.empty(module.weight.shape, format=_FORMAT)
    one = torch.randn(packed.shape[-2:], dtype=torch.bfloat16) * 0.02
    packed.write(0, one)
    size = packed.nbytes // (module.experts or 1)
    for expert in range(1, module.experts or 1):
        packed.storage[expert * size : (expert + 1) * size] = packed.storage[:size]
    module.replace(packed)
