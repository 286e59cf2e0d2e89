"""MTP blocks assembled from transformers' own decoder layer, norms and rotary embedding.

transformers has no MTP; these parts put together as the report describes are the independent
statement of it. The hooked hidden state is the input of the main model's final norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import MiMoV2FlashConfig
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as hf

from .hf_models import BASE, Variant, hf_model

MTP_VARIANT = Variant("mtp", (("sliding_window", 9), ("num_hidden_layers", 3)))
BLOCKS = 3


class OracleBlock(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        changes = dict(MTP_VARIANT.changes) | {
            "num_hidden_layers": 1,
            "layer_types": ["sliding_attention"],
            "mlp_layer_types": ["dense"],
        }
        config = MiMoV2FlashConfig(**{**BASE, **changes})
        config._attn_implementation = "eager"
        self.config, hidden = config, config.hidden_size
        self.enorm = hf.MiMoV2FlashRMSNorm(hidden, config.rms_norm_eps)
        self.hnorm = hf.MiMoV2FlashRMSNorm(hidden, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.layer = hf.MiMoV2FlashDecoderLayer(config, 0)
        self.final_layernorm = hf.MiMoV2FlashRMSNorm(hidden, config.rms_norm_eps)
        self.rotary = hf.MiMoV2FlashRotaryEmbedding(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if name.endswith("sinks"):
                    p.normal_(0, 1, generator=generator)
                elif p.dim() > 1:
                    p.normal_(0, 0.2, generator=generator)
                else:
                    p.normal_(1, 0.1, generator=generator)

    @torch.no_grad()
    def forward(self, embedded: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        u = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        distance = positions[:, None] - positions[None, :]
        seen = (distance >= 0) & (distance < self.config.sliding_window)
        mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[None, None]
        u = self.layer(
            u,
            attention_mask=mask,
            position_ids=positions[None],
            position_embeddings=self.rotary(u, positions[None], "sliding_attention"),
        )
        return self.final_layernorm(u)

    def hub_tensors(self, k: int) -> dict[str, Tensor]:
        """This block's weights under the names of a released checkpoint."""
        renamed = {}
        for name, tensor in self.state_dict().items():
            name = name.removeprefix("layer.")
            name = name.replace("post_attention_layernorm", "pre_mlp_layernorm")
            name = name.replace("self_attn.sinks", "self_attn.attention_sink_bias")
            renamed[f"model.mtp.layers.{k}.{name}"] = tensor.clone()
        return renamed


@dataclass
class Oracle:
    """Main model of transformers with three oracle blocks."""

    blocks: list[OracleBlock]

    @torch.no_grad()
    def hidden(self, ids: Tensor) -> Tensor:
        """[1, T, D]: the main model's hidden state before its final norm."""
        seen = []
        model = hf_model(MTP_VARIANT)
        hook = model.model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model(ids)
        hook.remove()
        return seen[0]

    @torch.no_grad()
    def logits(self, k: int, ids: Tensor) -> Tensor:
        """Block k's logits [1, T - 1 - k, V] for ids [1, T]: row i predicts token i + 2 + k."""
        model = hf_model(MTP_VARIANT)
        rows = ids.shape[1] - 1 - k
        embedded = model.model.embed_tokens(ids[:, 1 + k :])
        u = self.blocks[k](embedded, self.hidden(ids)[:, :rows], torch.arange(rows))
        return model.lm_head(u)


def make_oracle() -> Oracle:
    return Oracle([OracleBlock(seed=10 + k) for k in range(BLOCKS)])
