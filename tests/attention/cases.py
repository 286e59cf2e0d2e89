"""Problems of attention, attention_varlen and attention_cached."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor

from ..case import FLOATS, Case, normal
from .bound import attention_bound

__all__ = ["BENCHMARKS", "CASES", "AttentionCase", "CachedCase", "Committed", "VarlenCase"]

Row = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # q, k, v, positions of q and of k


@dataclass(frozen=True)
class Committed:
    """The committed tokens of each row, which the reference reads and a cache is filled from."""

    keys: list[Tensor]
    values: list[Tensor]

    def unpacked(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.keys[row], self.values[row], torch.arange(len(self.keys[row]))

    def as_stored(self, x: Tensor) -> Tensor:
        return x

    def double(self) -> "Committed":
        return Committed([k.double() for k in self.keys], [v.double() for v in self.values])


@dataclass(frozen=True, kw_only=True)
class _HeadsCase(Case):
    heads: int
    groups: int
    qk: int
    v: int
    window: int | None = None
    sink: str = "none"  # "spread" over [-8, 8]; "-inf"; "+30"; "mixed": all of these
    scale: float | None = None
    std: float = 1.0  # of queries and keys

    def qkv(self, queries: int, keys: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Packed [N, H, D], whatever the layout of the op."""
        return (
            normal(queries, self.heads, self.qk, seed=seed, dtype=self.dtype, std=self.std),
            normal(keys, self.groups, self.qk, seed=seed + 1, dtype=self.dtype, std=self.std),
            normal(keys, self.groups, self.v, seed=seed + 2, dtype=self.dtype),
        )

    def options(self) -> dict[str, object]:
        spread = torch.linspace(-8, 8, self.heads)
        sink = {
            "none": None,
            "spread": spread,
            "-inf": torch.full((self.heads,), -torch.inf),
            "+30": torch.full((self.heads,), 30.0),
            "mixed": torch.cat((torch.tensor([-torch.inf, 30.0]), spread))[: self.heads],
        }[self.sink]
        return {
            "scale": self.scale,
            "window_keys": self.window,
            "sink": sink,
            "return_lse": True,
        }

    def rows(self, args: dict) -> Iterator[Row]:
        raise NotImplementedError

    def visible(self, args: dict, row: int, at_q: Tensor, at_k: Tensor) -> Tensor:
        distance = at_q[:, None] - at_k
        return (distance >= 0) & (distance < (self.window or 1 << 60))

    def bounds(self, args: dict, want: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        o, lse = want
        dense = o.ndim == 4
        o, lse = o.flatten(0, 1) if dense else o, lse.transpose(0, 1).flatten(1) if dense else lse
        o_bound, lse_bound, start = torch.empty_like(o), torch.empty_like(lse), 0
        scale = self.qk**-0.5 if self.scale is None else self.scale
        for index, (q, k, v, at_q, at_k) in enumerate(self.rows(args)):
            mine = slice(start, start + len(q))
            visible = self.visible(args, index, at_q, at_k)
            o_bound[mine], lse_bound[:, mine] = attention_bound(
                q, k, v, visible, scale, args["sink"], o[mine], lse[:, mine], self.dtype
            )
            start += len(q)
        if not dense:
            return o_bound, lse_bound
        batch, tokens = want[0].shape[:2]
        return (
            o_bound.unflatten(0, (batch, tokens)),
            lse_bound.unflatten(1, (batch, tokens)).transpose(0, 1),
        )

    @property
    def flops(self) -> int:
        args = self.make()
        pairs = sum(
            int(self.visible(args, i, at_q, at_k).sum())
            for i, (_, _, _, at_q, at_k) in enumerate(self.rows(args))
        )
        return 2 * pairs * self.heads * (self.qk + self.v)

    @property
    def bytes(self) -> int:
        elements = 0
        for q, k, _, _, _ in self.rows(self.make()):
            elements += len(q) * self.heads * (self.qk + self.v)
            elements += len(k) * self.groups * (self.qk + self.v)
        return elements * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class AttentionCase(_HeadsCase):
    op: ClassVar[str] = "attention"
    batch: int = 1
    queries: int
    keys: int | None = None
    kv_lens: tuple[int, ...] | None = None
    causal: bool = True

    def make(self, seed: int = 0) -> dict[str, object]:
        keys = self.queries if self.keys is None else self.keys
        q, k, v = self.qkv(self.batch * self.queries, self.batch * keys, seed)
        return {
            "q": q.unflatten(0, (self.batch, self.queries)),
            "k": k.unflatten(0, (self.batch, keys)),
            "v": v.unflatten(0, (self.batch, keys)),
            "causal": self.causal,
            "kv_lens": None if self.kv_lens is None else torch.tensor(self.kv_lens),
            **self.options(),
        }

    def rows(self, args: dict) -> Iterator[Row]:
        for b, (q, k, v) in enumerate(zip(args["q"], args["k"], args["v"], strict=True)):
            n = len(k) if self.kv_lens is None else self.kv_lens[b]
            yield q, k[:n], v[:n], torch.arange(n - len(q), n), torch.arange(n)

    def visible(self, args: dict, row: int, at_q: Tensor, at_k: Tensor) -> Tensor:
        if not self.causal:
            return torch.ones(len(at_q), len(at_k), dtype=torch.bool)
        return super().visible(args, row, at_q, at_k)


@dataclass(frozen=True, kw_only=True)
class VarlenCase(_HeadsCase):
    op: ClassVar[str] = "attention_varlen"
    q_lens: tuple[int, ...]
    k_lens: tuple[int, ...] | None = None

    def make(self, seed: int = 0) -> dict[str, object]:
        k_lens = self.q_lens if self.k_lens is None else self.k_lens
        q, k, v = self.qkv(sum(self.q_lens), sum(k_lens), seed)
        edges = [torch.tensor([0, *lens]).cumsum(0).int() for lens in (self.q_lens, k_lens)]
        return {
            "q": q, "k": k, "v": v, "cu_seqlens_q": edges[0], "cu_seqlens_k": edges[1],
            **self.options(),
        }  # fmt: skip

    def rows(self, args: dict) -> Iterator[Row]:
        k_lens = self.q_lens if self.k_lens is None else self.k_lens
        parts = args["q"].split(self.q_lens), args["k"].split(k_lens), args["v"].split(k_lens)
        for q, k, v in zip(*parts, strict=True):
            yield q, k, v, torch.arange(len(k) - len(q), len(k)), torch.arange(len(k))


@dataclass(frozen=True, kw_only=True)
class CachedCase(_HeadsCase):
    """``layer_cache`` is a :class:`Committed`: fill the cache under test from it."""

    op: ClassVar[str] = "attention_cached"
    committed: tuple[int, ...]
    new: tuple[int, ...]
    tree: bool = False

    def make(self, seed: int = 0) -> dict[str, object]:
        q, k, v = self.qkv(sum(self.new), sum(self.new), seed)
        _, k_old, v_old = self.qkv(0, sum(self.committed), seed + 3)
        lens = list(self.committed)
        edges = torch.tensor([0, *self.new]).cumsum(0)
        args = {
            "q": q, "k_new": k, "v_new": v,
            "layer_cache": Committed(list(k_old.split(lens)), list(v_old.split(lens))),
            "cu_seqlens_q": edges,
            **self.options(),
        }  # fmt: skip
        if self.tree:
            masks = [_random_tree(n, seed + row) for row, n in enumerate(self.new)]
            args["ancestors"] = torch.tensor([*chain(*masks)], dtype=torch.int64)
        return args

    def rows(self, args: dict) -> Iterator[Row]:
        parts = (args[name].split(self.new) for name in ("q", "k_new", "v_new"))
        for row, (q, k, v) in enumerate(zip(*parts, strict=True)):
            k_old, v_old, at_old = args["layer_cache"].unpacked(row)
            depth = self.related(args, row).sum(-1) - 1 if self.tree else torch.arange(len(q))
            at = len(k_old) + depth
            yield q, torch.cat((k_old, k)), torch.cat((v_old, v)), at, torch.cat((at_old, at))

    def related(self, args: dict, row: int) -> Tensor:
        bits = args["ancestors"].split(self.new)[row]
        return (bits[:, None] >> torch.arange(len(bits)) & 1).bool()

    def visible(self, args: dict, row: int, at_q: Tensor, at_k: Tensor) -> Tensor:
        visible = super().visible(args, row, at_q, at_k)
        if self.tree:
            visible[:, len(at_k) - len(at_q) :] &= self.related(args, row)
        return visible


def _random_tree(nodes: int, seed: int) -> list[int]:
    """Ancestor masks as signed 64-bit numbers; node 0 is the root, parents come first."""
    gen = torch.Generator().manual_seed(seed)
    masks: list[int] = []
    for node in range(nodes):
        parent = masks[int(torch.randint(node, (1,), generator=gen))] if node else 0
        masks.append(parent | 1 << node)
    return [mask - (1 << 64) if mask >> 63 else mask for mask in masks]


_TINY, _MIDDLE, _TRUE = {"qk": 24, "v": 16}, {"qk": 64, "v": 64}, {"qk": 192, "v": 128}
_HEADS = ({"heads": 2, "groups": 2}, {"heads": 3, "groups": 1}, {"heads": 8, "groups": 1},
          {"heads": 16, "groups": 1})  # fmt: skip
_WINDOWS = (1, 2, 127, 128, 129)

_DENSE = [
    {"queries": 0, **_TINY, **_HEADS[1]},
    {"queries": 1, **_TINY, **_HEADS[1]},
    {"queries": 1, "keys": 0, **_TINY, **_HEADS[1], "sink": "spread"},
    *({"queries": 150, **_TINY, **heads} for heads in _HEADS),
    {"queries": 200, **_MIDDLE, **_HEADS[1], "batch": 2},
    {"queries": 140, **_TRUE, **_HEADS[3]},
    {"queries": 70, **_TRUE, "heads": 16, "groups": 2, "window": 33, "sink": "mixed"},
    *({"queries": 310, **_TINY, **_HEADS[2], "window": w, "sink": "spread"} for w in _WINDOWS),
    *({"queries": 310, **_MIDDLE, **_HEADS[1], "window": w} for w in _WINDOWS),
    {"queries": 330, **_TRUE, **_HEADS[2], "window": 129, "sink": "spread"},
    *({"queries": 135, **_TINY, **_HEADS[3], "window": 70, "sink": s}
      for s in ("none", "spread", "-inf", "+30", "mixed")),
    {"queries": 90, **_TINY, **_HEADS[2], "sink": "spread"},
    {"queries": 5, "keys": 400, **_TINY, **_HEADS[1]},
    {"queries": 70, "keys": 333, **_MIDDLE, **_HEADS[2], "window": 129, "sink": "mixed"},
    {"queries": 1, "keys": 2500, **_TINY, **_HEADS[2], "sink": "spread"},
    {"queries": 20, "keys": 7, **_TINY, **_HEADS[1]},
    {"queries": 20, "keys": 7, **_TINY, **_HEADS[1], "sink": "spread", "window": 3},
    {"queries": 30, "batch": 3, "kv_lens": (30, 0, 11), **_TINY, **_HEADS[1], "sink": "spread"},
    {"queries": 9, "keys": 200, "batch": 3, "kv_lens": (200, 64, 5), **_TINY, **_HEADS[2]},
    {"queries": 33, "keys": 65, "causal": False, **_TINY, **_HEADS[1]},
    {"queries": 80, **_TINY, **_HEADS[1], "scale": 1.0},
    {"queries": 80, **_TINY, **_HEADS[1], "std": 6.0, "sink": "spread"},
    {"queries": 40, "qk": 16, "v": 48, **_HEADS[1]},
]  # fmt: skip
_PACKED = [
    {"q_lens": ()},
    {"q_lens": (0, 0)},
    {"q_lens": (1,)},
    {"q_lens": (5, 0, 70, 1, 0, 33)},
    {"q_lens": (150, 160), "window": 129, "sink": "spread"},
    {"q_lens": (3, 0, 20, 2), "k_lens": (3, 9, 100, 0), "sink": "mixed", "window": 30},
    {"q_lens": (310, 4), "window": 2},
]
_CACHED = [
    {"committed": (0,), "new": (1,)},
    {"committed": (5,), "new": (1,)},
    {"committed": (64, 63, 0, 200), "new": (1, 1, 1, 1)},
    {"committed": (300, 0, 7, 128), "new": (1, 9, 0, 70), "sink": "spread"},
    *({"committed": (310, 127, 128, 0), "new": (1, 3, 1, 5), "window": w, "sink": "spread"}
      for w in _WINDOWS),
    {"committed": (200, 40), "new": (130, 140), "window": 129, "sink": "mixed"},
    {"committed": (2100,), "new": (3,)},
    {"committed": (0, 70, 128), "new": (4, 17, 1), "tree": True},
    {"committed": (310, 2), "new": (64, 30), "tree": True, "window": 129, "sink": "spread"},
    {"committed": (61,), "new": (20,), "tree": True, "window": 3},
]  # fmt: skip

CASES = [
    *(AttentionCase(dtype=t, **case) for case in _DENSE for t in FLOATS),
    *(VarlenCase(dtype=t, **_TINY, **_HEADS[2], **case) for case in _PACKED for t in FLOATS),
    *(CachedCase(dtype=t, **_TINY, **_HEADS[2], **case) for case in _CACHED for t in FLOATS),
    *(CachedCase(dtype=t, **_TRUE, heads=16, groups=2, committed=(130, 0), new=(1, 5), window=w,
                 sink="spread") for w in (None, 129) for t in FLOATS),
]  # fmt: skip

BENCHMARKS = [
    *(AttentionCase(queries=n, heads=8, groups=1, window=129, sink="spread", **_TRUE, dtype=t)
      for n in (512, 2048, 8192) for t in FLOATS if n == 2048 or t.itemsize == 2),
    *(AttentionCase(queries=n, heads=8, groups=1, **_TRUE, dtype=t)
      for n in (512, 2048, 8192) for t in FLOATS if n == 2048 or t.itemsize == 2),
    CachedCase(committed=(1000,), new=(1,), heads=64, groups=8, window=129, sink="spread",
               **_TRUE, dtype=torch.bfloat16),
    *(CachedCase(committed=(32768,), new=(1,), heads=q, groups=kv, **_TRUE, dtype=torch.bfloat16)
      for q, kv in ((64, 4), (16, 4), (8, 1))),
]  # fmt: skip
