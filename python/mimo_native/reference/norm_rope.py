"""RMSNorm and rotary position embedding in plain torch."""

import torch
from torch import Tensor

__all__ = ["rms_norm", "rope", "rope_table"]


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-5) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight; at least float32 inside, rounded once."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x_wide = x.to(wide)
    scale = torch.rsqrt(x_wide.square().mean(-1, keepdim=True) + eps)
    return (x_wide * scale * weight.to(wide)).to(x.dtype)


def rope_table(positions: Tensor, *, theta: float, rotary_dim: int) -> Tensor:
    """cos and sin of float32(position) * float32(theta^(-2j / rotary_dim)): [N, rotary_dim]."""
    j = torch.arange(rotary_dim // 2, dtype=torch.float64)
    frequency = torch.pow(torch.tensor(theta, dtype=torch.float64), -2.0 * j / rotary_dim).float()
    angle = (positions.float()[:, None] * frequency).double()
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def rope(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, *, value_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate dims [0, rotary_dim) of q and k [N, H, D] in half-split pairs; scale v."""

    def rotate(x: Tensor) -> Tensor:
        half = table.shape[-1] // 2
        wide = torch.promote_types(x.dtype, torch.float32)
        cos, sin = table.to(wide)[:, None, :half], table.to(wide)[:, None, half:]
        a, b = x[..., :half].to(wide), x[..., half : 2 * half].to(wide)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        return torch.cat([turned.to(x.dtype), x[..., 2 * half :]], dim=-1)

    return rotate(q), rotate(k), v * value_scale
