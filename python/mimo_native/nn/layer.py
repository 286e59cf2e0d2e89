"""One decoder layer and one MTP block."""

import torch
from torch import Tensor, nn

from ..cache import LayerCache
from ..config import LayerConfig, MiMoConfig
from .attention import Attention
from .batch import Batch
from .mlp import MLP, MoE, Routing
from .norm import RMSNorm
from .weight import HubNames, Weight

__all__ = ["DecoderLayer", "MTPBlock"]


class DecoderLayer(nn.Module):
    """Pre-norm: x += attention(norm(x)); x += feed_forward(norm(x))."""

    def __init__(self, config: MiMoConfig, layer: LayerConfig) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(hidden, eps=eps)
        self.self_attn = Attention(layer, hidden)
        self.post_attention_layernorm = RMSNorm(hidden, eps=eps)
        self.mlp: MLP | MoE
        if layer.moe:
            self.mlp = MoE(
                hidden,
                layer.intermediate_size,
                config.n_routed_experts,
                config.num_experts_per_tok,
                normalize=config.norm_topk_prob,
                scaling=config.routed_scaling_factor,
                n_group=config.n_group,
                topk_group=config.topk_group,
            )
        else:
            self.mlp = MLP(hidden, layer.intermediate_size)

    def forward(
        self,
        x: Tensor,
        batch: Batch,
        layer_cache: LayerCache | None = None,
        replay_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Routing | None]:
        """x [N, D] -> (x, k, v, the router's choice or None)."""
        attended, k, v = self.self_attn(self.input_layernorm(x), batch, layer_cache)
        x = x + attended
        normed, routing = self.post_attention_layernorm(x), None
        if isinstance(self.mlp, MoE):
            out, routing = self.mlp(normed, replay_ids=replay_ids)
        else:
            out = self.mlp(normed)
        return x + out, k, v, routing


class MTPBlock(HubNames):
    """Multi-token prediction block k: embedding of token i + 1 + k and hidden i predict i + 2 + k.

    u = eh_proj [enorm(embedding), hnorm(hidden)], then a sliding decoder layer with a dense
    feed-forward. The hidden state is the main model's before its final norm, for every block
    (section 2.3.2).
    """

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        hidden, eps, layer = config.hidden_size, config.rms_norm_eps, config.mtp_layer()
        self.enorm = RMSNorm(hidden, eps=eps)
        self.hnorm = RMSNorm(hidden, eps=eps)
        self.eh = Weight({"eh_proj": hidden}, 2 * hidden)
        self.input_layernorm = RMSNorm(hidden, eps=eps)
        self.self_attn = Attention(layer, hidden)
        self.pre_mlp_layernorm = RMSNorm(hidden, eps=eps)
        self.mlp = MLP(hidden, layer.intermediate_size)
        self.final_layernorm = RMSNorm(hidden, eps=eps)

    def forward(
        self,
        embedded: Tensor,
        hidden: Tensor,
        batch: Batch,
        layer_cache: LayerCache | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """embedded, hidden [N, D] -> (u [N, D] after final_layernorm, k, v)."""
        u = self.eh(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        attended, k, v = self.self_attn(self.input_layernorm(u), batch, layer_cache)
        u = u + attended
        u = u + self.mlp(self.pre_mlp_layernorm(u))
        return self.final_layernorm(u), k, v
