"""Which scale belongs to which row of a block-scaled weight: [rows, column blocks] from a grid.

Blocks are 128 x 128 of the matrix that was quantised, and that is not always the stored one. q, k
and v were quantised as the fused matrices [Q_r; K_r; V_r] of tensor-parallel ranks r, so that a
block may hold the last rows of K_r and the first of V_r. Files with split projections then keep the
scales of such a block with k_proj, and the grid of k_proj has more rows than its shape suggests.
"""

import torch
from torch import Tensor

from ..config import LayerConfig
from ..errors import CheckpointError

__all__ = [
    "BLOCK",
    "fused_row_scales",
    "has_rank_grid",
    "key_row_scales",
    "uniform_row_scales",
    "value_row_scales",
]

BLOCK = 128


def _blocks(rows: int) -> int:
    return -(-rows // BLOCK)


def uniform_row_scales(grid: Tensor, rows: int) -> Tensor:
    """Row i belongs to block i // 128."""
    return grid.repeat_interleave(BLOCK, dim=0)[:rows]


def has_rank_grid(layer: LayerConfig, key_blocks: int) -> bool:
    """Whether a grid of so many rows for k_proj is that of fused ranks, one key head in each."""
    heads = layer.num_kv_heads
    per_head = heads * _blocks(layer.head_dim)
    return key_blocks == per_head != _blocks(heads * layer.head_dim)


def _rank(layer: LayerConfig) -> tuple[int, int, int]:
    """Rows of Q, K and V in a rank with one key head; Q fills whole blocks."""
    q = layer.num_q_heads // layer.num_kv_heads * layer.head_dim
    return q, layer.head_dim, layer.v_head_dim


def key_row_scales(key_grid: Tensor, layer: LayerConfig) -> Tensor:
    """Scales of the rows of k_proj under the grid of fused ranks."""
    _, k, _ = _rank(layer)
    per_head = key_grid.unflatten(0, (layer.num_kv_heads, -1))
    return per_head.repeat_interleave(BLOCK, dim=1)[:, :k].flatten(0, 1)


def value_row_scales(
    key_grid: Tensor, value_grid: Tensor, layer: LayerConfig, *, where: str
) -> Tensor:
    """Scales of the rows of v_proj: those that share a block with the rank's keys use k_proj's.

    Raises CheckpointError where the grid of v_proj has not the rows that are left to it.
    """
    q, k, v = _rank(layer)
    heads = layer.num_kv_heads
    shared = _blocks(q + k) * BLOCK - (q + k)  # rows of V in the keys' last block
    own = _blocks(max(v - shared, 0))
    if q % BLOCK or value_grid.shape[0] != heads * own:
        raise CheckpointError(
            where,
            "v_proj.weight_scale_inv",
            expected=f"{heads * own} rows, {own} of each key head, beside k_proj's "
            f"{key_grid.shape[0]}",
            got=f"{value_grid.shape[0]}",
        )
    keys = key_grid.unflatten(0, (heads, -1))[:, -1:].expand(-1, min(shared, v), -1)
    values = value_grid.unflatten(0, (heads, own)).repeat_interleave(BLOCK, dim=1)
    return torch.cat([keys, values], dim=1)[:, :v].flatten(0, 1)


def fused_row_scales(grid: Tensor, rows: int, *, ranks: int, where: str) -> Tensor:
    """Scales of the rows of qkv_proj: blocks start anew in every rank.

    A grid for the matrix as a whole is taken too, where the two differ. Raises CheckpointError for
    any other.
    """
    per_rank = rows // ranks
    if grid.shape[0] == ranks * _blocks(per_rank):
        blocks = grid.unflatten(0, (ranks, -1)).repeat_interleave(BLOCK, dim=1)
        return blocks[:, :per_rank].flatten(0, 1)
    if grid.shape[0] == _blocks(rows):
        return uniform_row_scales(grid, rows)
    raise CheckpointError(
        where,
        "qkv_proj.weight_scale_inv",
        expected=f"{ranks * _blocks(per_rank)} rows, those of {ranks} ranks",
        got=f"{grid.shape[0]}",
    )
