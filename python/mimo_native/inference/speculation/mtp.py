"""Drafts from the MTP blocks.

With n tokens fed and token n known, block k has final rows at positions below n - k: row j takes
the hidden state h_j and token j + 1 + k. They are committed to the block's cache when the next
draft needs them. For a drafted path d_1 .. d_k, block k sees k private rows beyond, at positions
n - k .. n - 1 with tokens d_1 .. d_k, and the last of them proposes d_(k+1). Paths share private
rows where they share tokens, as nodes of a tree; none of them is ever committed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops
from ...cache import ModelCache
from ...nn import MiMoForCausalLM
from ...nn.native import draft_tokens
from ..request import Request
from .draft import MOST_NODES, Draft, TreeShape, best_first

__all__ = ["MTPDrafter"]

Path = tuple[int, ...]


@dataclass
class _Rows:
    """What one block is fed for one request: final rows first, then private ones."""

    request: Request
    final: int  # how many are final
    tokens: list[int]
    hidden: list[int]  # position of the hidden state, per row
    masks: list[int]  # ancestors among these rows, bit by bit
    ends: list[int]  # the rows whose output proposes, one per path


class MTPDrafter:
    """Drafts for the rows of one cache; ``observe`` must be told of every committed token."""

    def __init__(self, model: MiMoForCausalLM, cache: ModelCache) -> None:
        self.model, self.cache = model, cache
        self.heads = len(model.model.mtp.layers)
        # Hidden states of the last tokens of every row, those that a block has yet to see, as
        # places in the passes that they came from.
        self._tails: list[list[tuple[Tensor, int]]] = [[] for _ in range(cache.rows)]

    def observe(self, row: int, hidden: Tensor, at: Iterable[int]) -> None:
        """hidden [1, N, D] of a pass, of which the tokens ``at`` are now committed to ``row``."""
        self._tails[row].extend((hidden, index) for index in at)

    def forget(self, row: int) -> None:
        self._tails[row].clear()

    def draft(
        self, requests: Sequence[Request], depths: Sequence[int], shape: TreeShape
    ) -> list[Draft]:
        """One draft per request, of at most its depth; every request has fed all but one token."""
        scores: list[dict[Path, float]] = [{} for _ in requests]
        fronts: list[list[Path]] = [[()] for _ in requests]
        for k in range(self.heads):
            fronts = [
                front if k < depth and self._can_propose(k, r) else []
                for r, depth, front in zip(requests, depths, fronts, strict=True)
            ]
            if not any(fronts):
                break
            rows = [self._rows(k, r, f) for r, f in zip(requests, fronts, strict=True) if f]
            outputs = self._run(k, rows)
            found = iter(self._children(outputs, shape.width))
            for i, front in enumerate(fronts):
                level = {}
                for path in front:
                    above = scores[i].get(path, 0.0)
                    for token, logprob in next(found):
                        level[(*path, token)] = above + logprob
                scores[i] |= level
                likely = (path for path in level if level[path] >= shape.least_step)
                fronts[i] = sorted(likely, key=lambda path: (-level[path], path))[: shape.beam]
        self._trim(requests)
        return [best_first(s, shape) for s in scores]

    def _can_propose(self, k: int, request: Request) -> bool:
        """A path of k tokens needs k hidden states; block 0 proposes from its newest final row."""
        assert request.row is not None
        return request.fed > (k or int(self.cache.mtp_lengths(0)[request.row]))

    def _rows(self, k: int, request: Request, paths: list[Path]) -> _Rows:
        n, tokens = request.fed, request.tokens
        assert request.row is not None
        first = int(self.cache.mtp_lengths(k)[request.row])
        final = max(0, n - k - first)
        rows = _Rows(
            request,
            final,
            [tokens[j + 1 + k] for j in range(first, first + final)],
            list(range(first, first + final)),
            [(2 << i) - 1 for i in range(final)],
            [],
        )
        node: dict[Path, int] = {(): final - 1}
        below = (1 << final) - 1
        for path in paths:
            for i in range(1, len(path) + 1):
                prefix = path[:i]
                if prefix in node:
                    continue
                node[prefix] = len(rows.tokens)
                above = rows.masks[node[prefix[:-1]]] if i > 1 else below
                rows.masks.append(above | 1 << len(rows.tokens))
                rows.tokens.append(prefix[-1])
                rows.hidden.append(n - k + i - 1)
            rows.ends.append(node[path])
        return rows

    def _run(self, k: int, rows: list[_Rows]) -> Tensor:
        """Feed the block, commit the final rows -> outputs [paths, D] at the rows' ends."""
        # A tree has at most 64 nodes: more final rows than fit go ahead as a plain chunk.
        ahead = [max(0, len(r.tokens) - MOST_NODES) for r in rows]
        if any(ahead):
            self._pass(k, [_head(r, count) for r, count in zip(rows, ahead, strict=True)])
            rows = [_rest(r, count) for r, count in zip(rows, ahead, strict=True)]
        return self._pass(k, rows)

    def _pass(self, k: int, rows: list[_Rows]) -> Tensor:
        by_row = {r.request.row: r for r in rows}
        ids: list[int] = []
        hidden: list[Tensor] = []
        masks: list[int] = []
        final: list[int] = []
        ends: list[int] = []
        cu_seqlens = [0]
        for row in range(self.cache.rows):
            r = by_row.get(row)
            if r is not None:
                start, tail = len(ids), self._tails[row]
                offset = r.request.fed - len(tail)
                ids += r.tokens
                states = (tail[j - offset] for j in r.hidden)
                hidden += [state[0, index] for state, index in states]
                masks += r.masks
                final += range(start, start + r.final)
                ends += [start + end for end in r.ends]
            cu_seqlens.append(len(ids))
        branched = any(len(r.tokens) > r.final for r in rows)
        out = self.model.mtp(
            k,
            torch.tensor([ids], device=self.model.device),
            torch.stack(hidden)[None],
            cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32),
            cache=self.cache,
            ancestors=torch.tensor([[_signed(m) for m in masks]]) if branched else None,
            logits="none",
        )
        self.cache.commit_mtp(k, torch.tensor(final))
        return out.hidden[0, ends]

    def _children(self, outputs: Tensor, width: int) -> list[list[tuple[int, float]]]:
        """Per output row the ``width`` likeliest of the tokens that drafts are chosen from, with
        their log-probabilities among these."""
        head, count = self.model.head.weight, draft_tokens(self.model.config.vocab_size)
        rows = head.rows(0, count) if isinstance(head, ops.PackedWeight) else head[:count]
        logits = ops.linear(outputs, rows, out_dtype=torch.float32)
        top = logits.topk(min(width, logits.shape[-1]), dim=-1)
        logprobs = top.values - logits.logsumexp(-1, keepdim=True)
        return [
            list(zip(ids, values, strict=True))
            for ids, values in zip(top.indices.tolist(), logprobs.tolist(), strict=True)
        ]

    def _trim(self, requests: Sequence[Request]) -> None:
        """Drop the hidden states that every block has seen."""
        for request in requests:
            assert request.row is not None
            lengths = [int(self.cache.mtp_lengths(k)[request.row]) for k in range(self.heads)]
            tail = self._tails[request.row]
            # The last block trails most, and its private rows begin no earlier than its next one.
            del tail[: max(0, min(lengths) - (request.fed - len(tail)))]


def _head(rows: _Rows, count: int) -> _Rows:
    """The first ``count`` rows, all of them final, which propose nothing."""
    return _Rows(rows.request, count, rows.tokens[:count], rows.hidden[:count], [0] * count, [])


def _rest(rows: _Rows, count: int) -> _Rows:
    return _Rows(
        rows.request,
        rows.final - count,
        rows.tokens[count:],
        rows.hidden[count:],
        [mask >> count for mask in rows.masks[count:]],
        [end - count for end in rows.ends],
    )


def _signed(mask: int) -> int:
    return mask - 2**64 if mask >= 2**63 else mask
