"""The pre-training loss written down once more in float64: one document and one head at a time.

Nothing of the package is used but the config's numbers; tensors go by their checkpoint names. The
gradients are torch's own, of dense formulas without packing, fusing, chunks or recomputation.
"""

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class PretrainOracle:
    """loss(rows) over documents given as lists of ids; ``rows[r][d]`` is a document of row r."""

    def __init__(self, tensors: Tensors, config) -> None:
        self.t = {
            name: value.detach().double().clone().requires_grad_()
            for name, value in tensors.items()
        }
        self.c = config

    def loss(
        self,
        rows: list[list[list[int]]],
        *,
        mtp_weight: float,
        aux: float,
        detach_hidden: bool = False,
        detach_embedding: bool = False,
        detach_head: bool = False,
        mtp_only: bool = False,
        distill: int = 0,
    ) -> Tensor:
        heads = self.c.num_mtp_layers
        main: list[Tensor] = []
        mtp: list[list[Tensor]] = [[] for _ in range(heads)]
        balance: list[Tensor] = []
        for row in rows:
            scores: dict[int, list[Tensor]] = {}
            chosen: dict[int, list[Tensor]] = {}
            for document in row:
                h = self.hidden(document, scores, chosen)
                if mtp_only:
                    h = h.detach()
                logits = self.rms(h, "model.norm.weight") @ self.head().T
                for i in range(len(document) - 1):
                    main.append(self.nll(logits[i], document[i + 1]))
                taught = logits.detach() if distill else None
                for k in range(heads):
                    cuts = detach_hidden, detach_embedding, detach_head
                    mtp[k] += self.head_losses(k, document, h, cuts, taught, distill)
            for layer in scores:
                s = torch.cat(scores[layer])
                picked = torch.cat(chosen[layer])
                experts, slots, tokens = s.shape[1], picked.shape[1], s.shape[0]
                for e in range(experts):
                    f = int((picked == e).sum()) * experts / (slots * tokens)
                    p = (s[:, e] / s.sum(1)).mean()
                    balance.append(f * p)
        loss = torch.zeros((), dtype=torch.float64)
        if not mtp_only:
            loss = loss + sum(main) / max(len(main), 1) + aux * sum(balance) / len(rows)
        for k in range(heads):
            if mtp[k]:
                loss = loss + mtp_weight / heads * sum(mtp[k]) / len(mtp[k])
        return loss

    def head_losses(
        self,
        k: int,
        document: list[int],
        h: Tensor,
        cuts: tuple[bool, bool, bool] = (False, False, False),
        taught: Tensor | None = None,
        likeliest: int = 0,
    ) -> list[Tensor]:
        """Block k of one document: position i sees token i + 1 + k and is asked for i + 2 + k.

        cuts: whether hidden, embedding and head are detached.
        taught: the main head's logits, whose ``likeliest`` tokens are the target instead.
        """
        positions = len(document) - (k + 2)
        if positions <= 0:
            return []
        pre, (cut_h, cut_e, cut_w) = f"model.mtp.layers.{k}.", cuts
        e = self.t["model.embed_tokens.weight"][document[1 + k : 1 + k + positions]]
        h = h[:positions]
        e, h = (e.detach() if cut_e else e), (h.detach() if cut_h else h)
        both = torch.cat([self.rms(e, pre + "enorm.weight"), self.rms(h, pre + "hnorm.weight")], 1)
        u = both @ self.t[pre + "eh_proj.weight"].T
        u = u + self.attention(self.rms(u, pre + "input_layernorm.weight"), pre, sliding=True)
        x = self.rms(u, pre + "pre_mlp_layernorm.weight")
        u = u + self.mlp(x, pre + "mlp.")
        w = self.head().detach() if cut_w else self.head()
        logits = self.rms(u, pre + "final_layernorm.weight") @ w.T
        if taught is None:
            return [self.nll(logits[i], document[i + 2 + k]) for i in range(positions)]
        losses = []
        for i in range(positions):
            scores = taught[i + 1 + k]
            ids = sorted(range(len(scores)), key=lambda v: -float(scores[v]))[:likeliest]
            mass = sum(scores[v].exp() for v in ids)
            losses.append(sum(scores[v].exp() / mass * self.nll(logits[i], v) for v in ids))
        return losses

    def hidden(self, document: list[int], scores: dict, chosen: dict) -> Tensor:
        x = self.t["model.embed_tokens.weight"][document]
        for i in range(self.c.num_hidden_layers):
            pre = f"model.layers.{i}."
            normed = self.rms(x, pre + "input_layernorm.weight")
            x = x + self.attention(normed, pre, sliding=bool(self.c.hybrid_layer_pattern[i]))
            normed = self.rms(x, pre + "post_attention_layernorm.weight")
            if self.c.moe_layer_freq[i]:
                out, s, picked = self.experts(normed, pre + "mlp.")
                scores.setdefault(i, []).append(s)
                chosen.setdefault(i, []).append(picked)
            else:
                out = self.mlp(normed, pre + "mlp.")
            x = x + out
        return x

    def attention(self, x: Tensor, pre: str, *, sliding: bool) -> Tensor:
        c, pre, n = self.c, pre + "self_attn.", x.shape[0]
        if sliding:
            heads, kv, dqk, dv = (
                c.swa_num_attention_heads,
                c.swa_num_key_value_heads,
                c.swa_head_dim,
                c.swa_v_head_dim,
            )
            theta, part, window = c.swa_rope_theta, c.swa_partial_rotary_factor, c.window_keys
        else:
            heads, kv, dqk, dv = (
                c.num_attention_heads,
                c.num_key_value_heads,
                c.head_dim,
                c.v_head_dim,
            )
            theta, part, window = c.rope_theta, c.partial_rotary_factor, n
        q = (x @ self.t[pre + "q_proj.weight"].T).view(n, heads, dqk)
        k = (x @ self.t[pre + "k_proj.weight"].T).view(n, kv, dqk)
        v = (x @ self.t[pre + "v_proj.weight"].T).view(n, kv, dv) * c.attention_value_scale
        q, k = self.rotate(q, theta, int(dqk * part)), self.rotate(k, theta, int(dqk * part))
        sink = self.t.get(pre + "attention_sink_bias")
        far = torch.arange(n)[:, None] - torch.arange(n)
        hidden = (far < 0) | (far >= window)
        outs = []
        for head in range(heads):
            group = head // (heads // kv)
            a = q[:, head] @ k[:, group].T / dqk**0.5
            a = a.masked_fill(hidden, float("-inf"))
            if sink is not None:
                a = torch.cat([a, sink[head].expand(n, 1)], 1)
            outs.append(a.softmax(1)[:, :n] @ v[:, group])
        return torch.cat(outs, 1) @ self.t[pre + "o_proj.weight"].T

    @staticmethod
    def rotate(x: Tensor, theta: float, dims: int) -> Tensor:
        """Angles are float32 by definition of the model; all else is float64."""
        n, half = x.shape[0], dims // 2
        power = (
            torch.tensor(theta, dtype=torch.float64)
            ** (torch.arange(0, dims, 2).float() / dims).double()
        )
        angle = (torch.arange(n).float()[:, None] * (1 / power.float())).double()
        cos, sin = angle.cos().float().double()[:, None], angle.sin().float().double()[:, None]
        a, b = x[..., :half], x[..., half:dims]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., dims:]], -1)

    def experts(self, x: Tensor, pre: str) -> tuple[Tensor, Tensor, Tensor]:
        c = self.c
        s = torch.sigmoid(x @ self.t[pre + "gate.weight"].T)
        keys = s.detach() + self.t[pre + "gate.e_score_correction_bias"].detach()
        rows, picks = [], []
        for t in range(x.shape[0]):
            order = sorted(range(c.n_routed_experts), key=lambda e: (-float(keys[t, e]), e))
            ids = order[: c.num_experts_per_tok]
            total = sum(s[t, e] for e in ids)
            y = torch.zeros_like(x[t])
            for e in ids:
                weight = s[t, e] / total if c.norm_topk_prob else s[t, e]
                y = y + c.routed_scaling_factor * weight * self.mlp(x[t], f"{pre}experts.{e}.")
            rows.append(y)
            picks.append(torch.tensor(ids))
        return torch.stack(rows), s, torch.stack(picks)

    def mlp(self, x: Tensor, pre: str) -> Tensor:
        gate, up = x @ self.t[pre + "gate_proj.weight"].T, x @ self.t[pre + "up_proj.weight"].T
        return (gate * torch.sigmoid(gate) * up) @ self.t[pre + "down_proj.weight"].T

    def rms(self, x: Tensor, name: str) -> Tensor:
        return self.t[name] * x / (x.square().mean(-1, keepdim=True) + self.c.rms_norm_eps).sqrt()

    def head(self) -> Tensor:
        tied = self.c.tie_word_embeddings
        return self.t["model.embed_tokens.weight" if tied else "lm_head.weight"]

    @staticmethod
    def nll(logits: Tensor, target: int) -> Tensor:
        return torch.logsumexp(logits, 0) - logits[target]
