"""How q, k and v lie in one tensor. The layout is always named, never guessed from divisibility."""

from torch import Tensor

from ..config import LayerConfig
from ..errors import ShapeError

__all__ = ["split_fused_qkv"]


def split_fused_qkv(
    weight: Tensor, layer: LayerConfig, *, ranks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes ``self_attn.qkv_proj.weight`` of the ``fused_qkv`` layout apart.

    The tensor [q + k + v rows, hidden] is the concatenation over ``ranks`` tensor-parallel ranks of
    [Q_r; K_r; V_r], not [Q; K; V]: both have the same shape. Returns copies of q, k and v,
    [rows, hidden] in head order. Raises ``ShapeError`` where heads or rows do not divide.
    """
    for argument, heads in (("q heads", layer.num_q_heads), ("kv heads", layer.num_kv_heads)):
        if ranks < 1 or heads % ranks:
            raise ShapeError(
                "split_fused_qkv", argument, expected=f"a multiple of {ranks} ranks", got=str(heads)
            )
    rows = (
        layer.num_q_heads * layer.head_dim,
        layer.num_kv_heads * layer.head_dim,
        layer.num_kv_heads * layer.v_head_dim,
    )
    if weight.dim() != 2 or weight.shape[0] != sum(rows):
        raise ShapeError(
            "split_fused_qkv",
            "weight",
            expected=f"[{sum(rows)}, hidden]",
            got=str(list(weight.shape)),
        )
    per_rank = weight.unflatten(0, (ranks, -1)).split([n // ranks for n in rows], dim=1)
    q, k, v = (part.reshape(-1, weight.shape[1]).contiguous() for part in per_rank)
    return q, k, v
