"""The tokens of one forward pass, packed: every sequence's tokens in a row, no padding.

Dense, padded and packed inputs, ragged decode batches and draft trees all become this one form, so
that the layers have a single path. Suffix N counts packed tokens, B sequences.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import backends, ops
from ..cache import ModelCache
from ..errors import ShapeError

__all__ = ["Batch", "pack_batch"]


@dataclass
class Batch:
    """One forward pass's tokens and what its attention needs."""

    index: (
        Tensor | None
    )  # int64 [N]: flat positions of the packed tokens in [B, T]; None = all of them
    shape: tuple[int, int]  # (B, T) of the input
    cu_seqlens: Tensor  # int32 [sequences + 1]
    positions: Tensor  # int64 [N]
    cache: ModelCache | None = None
    ancestors: Tensor | None = None  # int64 [N], bit j = node j of the same sequence
    rows: Tensor | None = None  # int64 [N]: each token's row of the cache, see store_ahead
    tables: dict[tuple[float, int], Tensor] = field(default_factory=dict)

    def table(self, theta: float, rotary_dim: int) -> Tensor:
        """The RoPE table of these positions, made once per pass and frequency base."""
        key = (theta, rotary_dim)
        if key not in self.tables:
            self.tables[key] = ops.rope_table(self.positions, theta=theta, rotary_dim=rotary_dim)
        return self.tables[key]

    def store_ahead(self) -> None:
        """Let global layers store keys and values as they are computed, before the pass commits.

        For a cache that has room for the tokens; nobody sees them until then. A draft tree's nodes
        share positions, so that only a commit knows which to store.
        """
        on_gpu = self.positions.is_cuda or backends.simulated()
        if self.cache is None or not self.cache.plain or not on_gpu or self.ancestors is not None:
            return
        counts = self.cu_seqlens.diff().long()
        rows = torch.repeat_interleave(torch.arange(counts.numel()), counts)
        self.rows = rows.to(self.positions.device)

    def take(self, x_BT: Tensor) -> Tensor:
        """[B, T, ...] -> [N, ...]"""
        flat = x_BT.reshape(self.shape[0] * self.shape[1], *x_BT.shape[2:])
        return flat if self.index is None else flat[self.index]

    def put(self, x_N: Tensor) -> Tensor:
        """[N, ...] -> [B, T, ...]; padding becomes zero."""
        if self.index is None:
            return x_N.reshape(*self.shape, *x_N.shape[1:])
        out = x_N.new_zeros(self.shape[0] * self.shape[1], *x_N.shape[1:])
        out[self.index] = x_N
        return out.reshape(*self.shape, *x_N.shape[1:])

    @property
    def last_index(self) -> Tensor:
        """int64 [sequences]: the last packed token of every sequence."""
        return self.cu_seqlens[1:].long() - 1


def pack_batch(
    shape: tuple[int, int],
    *,
    device: torch.device,
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None,
    lengths: Tensor | None,
    ancestors: Tensor | None,
    cache: ModelCache | None = None,
) -> Batch:
    """Validates the shape arguments of a forward pass and packs it.

    What says where the tokens belong stays on the host; the positions, from which the kernels make
    their tables, go to ``device``.

    shape (B, T); position_ids int64 [B, T]; attention_mask [B, T], nonzero = real token (its zeros
    may be on either side); cu_seqlens int32 [S + 1] for packed documents in B = 1; lengths int64
    [S]: committed tokens per sequence; ancestors int64 [B, T]. Raises ShapeError.
    """
    rows, columns = shape
    index = None
    if cu_seqlens is not None:
        if attention_mask is not None:
            raise ShapeError(
                "forward", "attention_mask", expected="None beside cu_seqlens", got="a mask"
            )
        cu_seqlens = _check_cu_seqlens(cu_seqlens.cpu(), rows, columns)
    elif attention_mask is not None and not bool(attention_mask.all()):
        _check_shape("attention_mask", attention_mask, shape)
        mask = attention_mask.cpu().bool()
        _check_one_run(mask)
        index = mask.flatten().nonzero()[:, 0]
        counts = mask.sum(1)
        cu_seqlens = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    else:
        if attention_mask is not None:
            _check_shape("attention_mask", attention_mask, shape)
        cu_seqlens = torch.arange(0, rows * columns + 1, max(columns, 1), dtype=torch.int32)[
            : rows + 1
        ]
        if columns == 0:
            cu_seqlens = torch.zeros(rows + 1, dtype=torch.int32)

    if lengths is not None and lengths.numel() != cu_seqlens.numel() - 1:
        raise ShapeError(
            "forward",
            "cache",
            expected=f"{cu_seqlens.numel() - 1} rows, one per sequence of input_ids",
            got=f"{lengths.numel()} rows",
        )
    batch = Batch(index, shape, cu_seqlens, torch.empty(0), cache)
    if ancestors is not None:
        _check_shape("ancestors", ancestors, shape)
        batch.ancestors = batch.take(ancestors.cpu()).contiguous()
    expected = _positions(batch, lengths)
    if position_ids is None:
        batch.positions = expected
    else:
        _check_shape("position_ids", position_ids, shape)
        batch.positions = batch.take(position_ids.cpu()).contiguous()
        _check_positions(batch, expected, exact=lengths is not None)
    batch.positions = batch.positions.to(device)
    return batch


def _positions(batch: Batch, lengths: Tensor | None) -> Tensor:
    counts = batch.cu_seqlens.diff().long()
    starts = batch.cu_seqlens[:-1].long()
    if batch.ancestors is not None:
        depth = _popcount(batch.ancestors) - 1
    else:
        depth = torch.arange(int(batch.cu_seqlens[-1])) - torch.repeat_interleave(starts, counts)
    return depth if lengths is None else depth + torch.repeat_interleave(lengths, counts)


def _popcount(bits: Tensor) -> Tensor:
    shifts = torch.arange(64)
    return ((bits[:, None] >> shifts) & 1).sum(1)


def _check_shape(argument: str, tensor: Tensor, shape: tuple[int, int]) -> None:
    if tuple(tensor.shape) != shape:
        raise ShapeError(
            "forward",
            argument,
            expected=f"the shape of input_ids, {list(shape)}",
            got=str(list(tensor.shape)),
        )


def _check_cu_seqlens(cu_seqlens: Tensor, rows: int, columns: int) -> Tensor:
    good = (
        rows == 1
        and cu_seqlens.ndim == 1
        and cu_seqlens.numel() >= 1
        and int(cu_seqlens[0]) == 0
        and int(cu_seqlens[-1]) == columns
        and bool((cu_seqlens.diff() >= 0).all())
    )
    if not good:
        raise ShapeError(
            "forward",
            "cu_seqlens",
            expected=f"non-decreasing [S + 1] from 0 to T = {columns} with input_ids [1, T]",
            got=f"{cu_seqlens.tolist()} with input_ids [{rows}, {columns}]",
        )
    return cu_seqlens.to(torch.int32)


def _check_one_run(mask: Tensor) -> None:
    starts = mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    if bool((starts.sum(1) > 1).any()):
        raise ShapeError(
            "forward",
            "attention_mask",
            expected="one run of real tokens per row",
            got="padding between real tokens",
            remedy="Pad on one side, or pass packed documents with cu_seqlens.",
        )


def _check_positions(batch: Batch, expected: Tensor, *, exact: bool) -> None:
    # Without a cache a document may start anywhere, but then its positions count up by one.
    offset = batch.positions - expected
    if not exact and offset.numel():
        first = batch.cu_seqlens[:-1].long()
        counts = batch.cu_seqlens.diff().long()
        first = first[counts > 0]
        offset = offset - torch.repeat_interleave(offset[first], counts[counts > 0])
    if bool((offset != 0).any()) or bool((batch.positions < 0).any()):
        raise ShapeError(
            "forward",
            "position_ids",
            expected="the cached length onwards, step 1" if exact else "consecutive from >= 0",
            got=str(batch.positions.tolist()[:16]),
            remedy="Leave position_ids out to get the right ones.",
        )
