"""The whole model in eager torch, as one would write it to train it on a CPU today.

Fused where torch has something fused: rms_norm, scaled_dot_product_attention, grouped_mm,
cross_entropy; sliding layers compute their band only; experts work on tokens sorted by expert.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import mimo_native as mn

from .attention_backward import banded_attention, padded_sdpa

__all__ = ["eager_loss"]


def eager_loss(model: mn.MiMoForCausalLM, ids: Tensor) -> Tensor:
    """Mean cross-entropy of one document, ids [T], T a multiple of 128."""
    positions, inner = torch.arange(len(ids)), model.model
    x = F.embedding(ids, inner.embed_tokens.weight)
    for layer in inner.layers:
        x = x + _attention(layer.self_attn, _norm(x, layer.input_layernorm), positions)
        h = _norm(x, layer.post_attention_layernorm)
        x = x + (_experts(layer.mlp, h) if hasattr(layer.mlp, "experts") else _dense(layer.mlp, h))
    logits = F.linear(_norm(x[:-1], inner.norm), model.head.weight)
    return F.cross_entropy(logits.float(), ids[1:])


def _norm(x: Tensor, module) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], module.weight, module.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    a, b, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


def _attention(module, x: Tensor, positions: Tensor) -> Tensor:
    c = module.config
    q, k, v = F.linear(x, module.qkv.weight).split(list(module.qkv.rows.values()), dim=-1)
    table = mn.reference.rope_table(positions, theta=c.rope_theta, rotary_dim=c.rotary_dim)
    cos, sin = table.to(x.dtype)[:, None].chunk(2, dim=-1)
    q = _rotate(q.unflatten(-1, (c.num_q_heads, c.head_dim)), cos, sin)
    k = _rotate(k.unflatten(-1, (c.num_kv_heads, c.head_dim)), cos, sin)
    v = v.unflatten(-1, (c.num_kv_heads, c.v_head_dim)) * c.value_scale
    if c.window_keys is None:
        o = padded_sdpa(q, k, v)
    else:
        o = banded_attention(q, k, v, module.attention_sink_bias, c.window_keys)
    return F.linear(o.flatten(-2), module.o.weight)


def _dense(module, x: Tensor) -> Tensor:
    gate, up = F.linear(x, module.gate_up.weight).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, module.down.weight)


def _experts(module, x: Tensor) -> Tensor:
    router, experts = module.gate, module.experts
    scores = F.linear(x.float(), router.proj.weight.float()).sigmoid()
    ids = (scores.detach() + router.e_score_correction_bias).topk(router.top_k, sorted=False)[1]
    weights = scores.gather(1, ids)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    flat, order = ids.flatten().sort(stable=True)
    ends = flat.bincount(minlength=scores.shape[1]).cumsum(0).int()
    token = order // router.top_k
    rows = x.index_select(0, token)
    hidden = F.grouped_mm(rows, experts.gate_up.weight.transpose(-2, -1), offs=ends)
    gate, up = hidden.chunk(2, dim=-1)
    out = F.grouped_mm(F.silu(gate) * up, experts.down.weight.transpose(-2, -1), offs=ends)
    scaled = out * weights.flatten()[order, None].to(out.dtype)
    return torch.zeros_like(x).index_add(0, token, scaled)
