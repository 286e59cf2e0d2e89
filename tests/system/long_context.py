"""Needles in a very long context: a reduced hybrid model, in chunks over a cache, against plain
float32 torch that sees the whole sequence at once.

Key tokens are scattered over all depths, each after a payload token. The last tokens name the keys
again, and the perplexity of the payloads after them is compared. The global layers attend from a
key token to its like, wherever it stands, so the far payloads count.

python -m tests.system.long_context --tokens 262144     # minutes on one core
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mimo_native import MiMoConfig, MiMoForCausalLM, reference
from mimo_native.cache import KvFormat, ModelCache
from mimo_native.weights.fit import fit

__all__ = ["CONFIG", "build", "chunked", "needles", "perplexity", "unchunked"]

# Sliding, global, sliding, global: the sliding layers bring a payload beside its key.
CONFIG = replace(
    MiMoConfig.tiny(),
    hybrid_layer_pattern=(1, 0, 1, 0),
    moe_layer_freq=(0, 0, 0, 0),
    num_mtp_layers=0,
    vocab_size=64,
    window_keys=4,
    num_attention_heads=1,
    swa_num_attention_heads=2,
    swa_num_key_value_heads=1,
    max_position_embeddings=262_144,
)
DEPTHS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99)
_PLAIN = 48  # tokens below are plain text, those from here on are keys
_MATCH = 16.0  # how strongly a key meets its like


def build(dtype: torch.dtype = torch.float32) -> MiMoForCausalLM:
    """Random weights, but for a hidden dimension per key token: only its embedding writes it, and
    only the global layers' queries and keys read it."""
    model = MiMoForCausalLM(CONFIG).init_weights(std=0.2, seed=5)
    state = model.state_dict()
    state["model.embed_tokens.weight"][:, _PLAIN:] = 0
    rotary = CONFIG.layer(1).rotary_dim
    for i in range(len(DEPTHS)):
        state["model.embed_tokens.weight"][_PLAIN + i, _PLAIN + i] = 2
    for i, sliding in enumerate(CONFIG.hybrid_layer_pattern):
        name = f"model.layers.{i}."
        state[name + "self_attn.o_proj.weight"][_PLAIN:] = 0
        state[name + "mlp.down_proj.weight"][_PLAIN:] = 0
        if sliding:
            continue
        for part in ("q", "k"):
            weight = state[f"{name}self_attn.{part}_proj.weight"]
            weight[:, _PLAIN:] = 0
            weight[rotary:] = 0
            for key in range(len(DEPTHS)):
                weight[rotary + key, _PLAIN + key] = _MATCH
    return model.to(dtype)


def needles(tokens: int, *, shift: int = 0) -> tuple[Tensor, Tensor]:
    """ids [tokens], and the positions whose next token is a payload at the end.

    ``shift`` changes the payloads in the text, not those at the end.
    """
    gen = torch.Generator().manual_seed(7)
    ids = torch.randint(0, _PLAIN, (tokens,), generator=gen)
    payloads = torch.randint(0, _PLAIN, (len(DEPTHS),), generator=gen)
    end = tokens - 2 * len(DEPTHS)
    for i, depth in enumerate(DEPTHS):
        at = int(depth * (end - 2))
        ids[at], ids[at + 1] = (payloads[i] + shift) % _PLAIN, _PLAIN + i
        ids[end + 2 * i], ids[end + 2 * i + 1] = _PLAIN + i, payloads[i]
    return ids, torch.arange(end, tokens, 2)


def perplexity(logits: Tensor, ids: Tensor, at: Tensor) -> float:
    """Of the tokens after the positions ``at``, whose logits [len(at), V] are."""
    log_p = logits.double().log_softmax(-1).gather(-1, ids[at + 1, None])
    return float(torch.exp(-log_p.mean()))


@torch.no_grad()
def chunked(
    model: MiMoForCausalLM, ids: Tensor, at: Tensor, chunk: int, kv_format: KvFormat | None = None
) -> tuple[Tensor, ModelCache]:
    """Logits [len(at), V] of a pass in chunks, and the cache it filled."""
    cache = model.new_cache(1, len(ids), kv_format=kv_format)
    found = []
    for begin in range(0, len(ids), chunk):
        part = ids[None, begin : begin + chunk]
        hidden = model(part, cache=cache, logits="none").hidden[0]
        here = at[(at >= begin) & (at < begin + chunk)] - begin
        found.append(model.logits(hidden[here]))
    return torch.cat(found), cache


@torch.no_grad()
def unchunked(model: MiMoForCausalLM, ids: Tensor, at: Tensor) -> Tensor:
    """The same from the state dict: every layer over the whole sequence, in float32."""
    state = {name: t.float() for name, t in model.state_dict().items()}
    positions = torch.arange(len(ids))
    x = state["model.embed_tokens.weight"][ids]
    for i in range(CONFIG.num_hidden_layers):
        layer, name = CONFIG.layer(i), f"model.layers.{i}."
        heads = layer.num_q_heads, layer.num_kv_heads, layer.num_kv_heads
        dims = layer.head_dim, layer.head_dim, layer.v_head_dim
        normed = reference.rms_norm(x, state[name + "input_layernorm.weight"])
        table = reference.rope_table(positions, theta=layer.rope_theta, rotary_dim=layer.rotary_dim)
        q, k, v = reference.rope(
            *(
                (normed @ state[f"{name}self_attn.{part}_proj.weight"].T).unflatten(-1, (h, d))
                for part, h, d in zip("qkv", heads, dims, strict=True)
            ),
            table,
            value_scale=layer.value_scale,
        )
        last = i == CONFIG.num_hidden_layers - 1
        wanted = at if last else positions  # of the last layer nothing else is needed
        sink = state.get(name + "self_attn.attention_sink_bias")
        rows = [_attend(q[row], k, v, row, layer.window_keys, sink) for row in wanted.split(256)]
        x = x[wanted] + torch.cat(rows).flatten(-2) @ state[name + "self_attn.o_proj.weight"].T
        normed = reference.rms_norm(x, state[name + "post_attention_layernorm.weight"])
        gate = normed @ state[name + "mlp.gate_proj.weight"].T
        up = normed @ state[name + "mlp.up_proj.weight"].T
        x = x + (torch.nn.functional.silu(gate) * up) @ state[name + "mlp.down_proj.weight"].T
    return reference.rms_norm(x, state["model.norm.weight"]) @ state["lm_head.weight"].T


def _attend(
    q: Tensor, k: Tensor, v: Tensor, at: Tensor, window: int | None, sink: Tensor | None
) -> Tensor:
    """softmax over all keys in sight, at once: q [T, H, D] at positions ``at`` -> [T, H, Dv]."""
    end = int(at[-1]) + 1
    begin = 0 if window is None else max(0, int(at[0]) - window + 1)
    k, v = k[begin:end, 0], v[begin:end, 0]
    scores = torch.einsum("thd,sd->hts", q, k) * q.shape[-1] ** -0.5
    keys = torch.arange(begin, end)
    hidden = keys > at[:, None]
    if window is not None:
        hidden |= keys <= at[:, None] - window
    scores.masked_fill_(hidden, -torch.inf)
    m = scores.amax(-1, keepdim=True)
    if sink is not None:
        m = torch.maximum(m, sink[:, None, None])
    p = scores.sub_(m).exp_()
    total = p.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink[:, None, None] - m)
    return torch.einsum("hts,sd->thd", p, v) / total.transpose(0, 1)


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _runs() -> Iterator[tuple[str, torch.dtype, KvFormat | None]]:
    yield "float32", torch.float32, None
    yield "bfloat16", torch.bfloat16, None
    yield "bfloat16, int8", torch.bfloat16, "int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--chunk", type=int, default=2048)
    args = parser.parse_args()
    ids, at = needles(args.tokens)
    for name, dtype, kv_format in _runs():
        model = build(dtype)
        before, began = _resident(), time.thread_time()
        logits, cache = chunked(model, ids, at, args.chunk, kv_format)
        foreseen = fit(
            CONFIG,
            context=args.tokens,
            dtype=str(dtype).removeprefix("torch."),
            kv_format=kv_format,
        ).cache_bytes
        record = {
            "run": name,
            "tokens": args.tokens,
            "chunk": args.chunk,
            "perplexity": perplexity(logits, ids, at),
            "cache_bytes": cache.nbytes,
            "foreseen_bytes": foreseen,
            "resident_growth": _resident() - before,
            "cpu_seconds": time.thread_time() - began,
        }
        print(json.dumps(record), flush=True)
    began = time.thread_time()
    want = perplexity(unchunked(build(), ids, at), ids, at)
    seconds = time.thread_time() - began
    print(json.dumps({"run": "unchunked", "perplexity": want, "cpu_seconds": seconds}))


if __name__ == "__main__":
    main()
