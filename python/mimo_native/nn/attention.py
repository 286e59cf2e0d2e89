"""Self-attention of one layer: global or sliding, with sink, partial RoPE and value scale."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import ops
from ..cache import LayerCache
from ..config import LayerConfig
from .batch import Batch
from .keep_float32 import keep_float32
from .weight import HubNames, Weight

__all__ = ["Attention"]


class Attention(HubNames):
    """x [N, D] packed tokens -> (y [N, D], k [N, Hkv, Dqk], v [N, Hkv, Dv]); report, section 2.1.

    With ``layer_cache`` the tokens attend to its committed keys and to each other's. The returned
    keys (rotated) and values (scaled) are committed once the whole pass has succeeded; on a GPU a
    global layer stores them at once, behind the committed ones, and commits by its length alone.
    """

    def __init__(self, config: LayerConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.qkv = Weight(
            {
                "q_proj": config.num_q_heads * config.head_dim,
                "k_proj": config.num_kv_heads * config.head_dim,
                "v_proj": config.num_kv_heads * config.v_head_dim,
            },
            hidden_size,
        )
        self.o = Weight({"o_proj": hidden_size}, config.num_q_heads * config.v_head_dim)
        # One null logit per query head, unscaled (equations 1-4); float32 like all of softmax.
        sink = nn.Parameter(torch.zeros(config.num_q_heads)) if config.sink else None
        self.register_parameter("attention_sink_bias", sink)

    def forward(
        self, x: Tensor, batch: Batch, layer_cache: LayerCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        q, k, v = self.qkv(x).split(list(self.qkv.rows.values()), dim=-1)
        qkv = (
            q.unflatten(-1, (c.num_q_heads, c.head_dim)),
            k.unflatten(-1, (c.num_kv_heads, c.head_dim)),
            v.unflatten(-1, (c.num_kv_heads, c.v_head_dim)),
        )
        table = batch.table(c.rope_theta, c.rotary_dim)
        if layer_cache is None or layer_cache.is_ring or batch.rows is None:
            q, k, v = ops.rope(*qkv, table, value_scale=c.value_scale)
        else:
            places = {"rows": batch.rows, "positions": batch.positions}
            q, k, v = ops.rope_cached(*qkv, table, layer_cache, **places, value_scale=c.value_scale)
            layer_cache.note_ahead(k, v)
        if layer_cache is None:
            out = ops.attention_varlen(
                q,
                k,
                v,
                cu_seqlens_q=batch.cu_seqlens,
                cu_seqlens_k=batch.cu_seqlens,
                window_keys=c.window_keys,
                sink=self.attention_sink_bias,
            )
        else:
            out = ops.attention_cached(
                q,
                k,
                v,
                layer_cache,
                cu_seqlens_q=batch.cu_seqlens,
                ancestors=batch.ancestors,
                window_keys=c.window_keys,
                sink=self.attention_sink_bias,
            )
        return self.o(out.flatten(-2)), k, v

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Attention":
        sink, self._parameters["attention_sink_bias"] = self.attention_sink_bias, None
        super()._apply(fn, recurse)
        if sink is not None:
            sink.data = keep_float32(fn)(sink.data)
            self._parameters["attention_sink_bias"] = sink
        return self
