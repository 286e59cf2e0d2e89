"""MTP heads in training: one in pre-training, copied and trained jointly afterwards."""

import copy
from dataclasses import dataclass, replace

import torch

from ..errors import ShapeError, UnsupportedError
from ..nn import MiMoForCausalLM
from ..nn.layer import DecoderLayer, MTPBlock

__all__ = ["Boundary", "attach_mtp", "expand_mtp"]


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """What the MTP loss does not train: the trunk by the hidden state, the embedding, the head.

    The heads' own parameters are trained in any case. The default is that of pre-training, where
    the MTP loss is meant to shape the trunk.
    """

    hidden: bool = False
    embedding: bool = False
    head: bool = False

    @classmethod
    def detached(cls) -> "Boundary":
        """Nothing of the main model feels the MTP loss."""
        return cls(hidden=True, embedding=True, head=True)


def attach_mtp(model: MiMoForCausalLM, *, window_keys: int) -> None:
    """Give a model without MTP heads, every layer global and dense, its first one.

    The block is the trunk's last layer over again, now sliding with ``window_keys``: it continues
    from the sum of the normed embedding and hidden state and ends in the trunk's final norm. Raises
    UnsupportedError for a model with MTP heads, sliding layers, experts or packed weights.
    """
    config, last = model.config, model.model.layers[-1]
    reasons = []
    if config.num_mtp_layers:
        reasons.append(f"it has {config.num_mtp_layers} MTP heads")
    if any(config.hybrid_layer_pattern) or any(config.moe_layer_freq):
        reasons.append("it has sliding layers or experts, so its MTP block is no copy of a layer")
    if model.head.packed:
        reasons.append("its weights are packed")
    if reasons:
        raise UnsupportedError("attach_mtp", reasons)
    assert isinstance(last, DecoderLayer)
    swa = {
        f"swa_{name}": getattr(config, name)
        for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim")
    }
    swa |= {
        "swa_rope_theta": config.rope_theta,
        "swa_partial_rotary_factor": config.partial_rotary_factor,
        "add_swa_attention_sink_bias": config.add_full_attention_sink_bias,
    }
    config = replace(config, num_mtp_layers=1, window_keys=window_keys, **swa)
    block = MTPBlock(config).to(model.dtype)
    block.input_layernorm = copy.deepcopy(last.input_layernorm)
    block.self_attn = copy.deepcopy(last.self_attn)
    block.self_attn.config = config.mtp_layer()
    block.pre_mlp_layernorm = copy.deepcopy(last.post_attention_layernorm)
    block.mlp = copy.deepcopy(last.mlp)
    block.final_layernorm = copy.deepcopy(model.model.norm)
    with torch.no_grad():
        identity = torch.eye(config.hidden_size)
        block.eh.weight.copy_(torch.cat([identity, identity], dim=1))
        for norm in (block.enorm, block.hnorm):
            norm.weight.fill_(1.0)
    model.model.mtp.layers.append(block)
    model.config = config


def expand_mtp(model: MiMoForCausalLM, heads: int) -> None:
    """Copy the last MTP block until the model has ``heads`` of them (section 2.3.2).

    Raises ShapeError for a model without a block, with packed weights, or with more blocks.
    """
    blocks = model.model.mtp.layers
    if not 1 <= len(blocks) <= heads:
        raise ShapeError(
            "expand_mtp",
            "heads",
            expected=f"at least {max(len(blocks), 1)}, and a model with one block to copy",
            got=f"{heads} heads of a model with {len(blocks)}",
        )
    while len(blocks) < heads:
        blocks.append(copy.deepcopy(blocks[-1]))
    model.config = replace(model.config, num_mtp_layers=heads)
