"""A llama in numpy float32, straight from the GGUF file: the independent opinion on SmolLM2.

It shares nothing with the package: the `gguf` package parses and dequantises, rows of q and k stay
in the file's order, where rotary pairs are adjacent, and attention is one dense masked softmax.
"""

from pathlib import Path

import gguf
import numpy as np

F32 = np.float32


class LlamaNumpy:
    """``logits(ids)`` of a whole sequence from position 0. Weights are dequantised when loaded."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        number = {
            key.removeprefix("llama."): field.contents()
            for key, field in reader.fields.items()
            if key.startswith("llama.")
        }
        self.layers = number["block_count"]
        self.heads, self.kv_heads = (
            number["attention.head_count"],
            number["attention.head_count_kv"],
        )
        self.eps = F32(number["attention.layer_norm_rms_epsilon"])
        self.theta, self.rotary = number["rope.freq_base"], number["rope.dimension_count"]
        self.w = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}

    def logits(self, ids: list[int]) -> np.ndarray:
        """Next-token logits, float32 [len(ids), vocabulary]."""
        x = self.w["token_embd.weight"][ids]
        cos, sin = self._angles(len(ids))
        for layer in range(self.layers):
            w = {
                name: self.w[f"blk.{layer}.{name}.weight"]
                for name in (
                    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output",
                    "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
                )
            }  # fmt: skip
            x = x + self._attention(self._norm(x, w["attn_norm"]), w, cos, sin)
            h = self._norm(x, w["ffn_norm"])
            gate = h @ w["ffn_gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
        head = self.w.get("output.weight", self.w["token_embd.weight"])
        return self._norm(x, self.w["output_norm.weight"]) @ head.T

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * weight

    def _angles(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        inverse = self.theta ** (-np.arange(0, self.rotary, 2) / self.rotary)
        angle = np.outer(np.arange(length, dtype=F32), inverse.astype(F32))[:, None, :]
        return np.cos(angle), np.sin(angle)

    def _rotate(self, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    def _attention(self, x: np.ndarray, w: dict, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        length = len(x)
        q = self._rotate((x @ w["attn_q"].T).reshape(length, self.heads, -1), cos, sin)
        k = self._rotate((x @ w["attn_k"].T).reshape(length, self.kv_heads, -1), cos, sin)
        v = (x @ w["attn_v"].T).reshape(length, self.kv_heads, -1)
        future = np.triu(np.full((length, length), -np.inf, F32), 1)
        out = np.empty((length, self.heads, v.shape[-1]), F32)
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, shared].T / F32(np.sqrt(q.shape[-1])) + future
            weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = weight / weight.sum(axis=-1, keepdims=True) @ v[:, shared]
        return out.reshape(length, -1) @ w["attn_output"].T


def greedy(model: LlamaNumpy, ids: list[int], count: int) -> list[int]:
    """``count`` tokens after ``ids``, each the argmax, recomputing everything every time."""
    out = list(ids)
    for _ in range(count):
        out.append(int(model.logits(out)[-1].argmax()))
    return out[len(ids) :]


def perplexity(logits: np.ndarray, ids: list[int]) -> float:
    """exp of the mean cross-entropy of ids[1:] under logits[:-1], in float64."""
    rows = logits[:-1].astype(np.float64)
    top = rows.max(axis=-1)
    total = top + np.log(np.exp(rows - top[:, None]).sum(axis=-1))
    return float(np.exp(np.mean(total - rows[np.arange(len(ids) - 1), ids[1:]])))
