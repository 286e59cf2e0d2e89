"""The product of the FP8 release with quantised activations, in plain torch.

The kernels multiply e4m3 weights by unrounded activations; here the activations are rounded too, as
the release's own engine does, so that the difference can be measured.
"""

import torch
from torch import Tensor

from ._common import require

__all__ = ["linear_e4m3", "quantise_rows"]

_GROUP, _LARGEST = 128, 448.0


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [.., K] -> e4m3 codes [.., K] and float32 scales [.., K / 128], one per row and 128 inputs.

    The scale is the largest magnitude over 448. K that is no multiple of 128 ends in a short group.
    """
    missing = -x.shape[-1] % _GROUP
    groups = torch.nn.functional.pad(x.float(), (0, missing)).unflatten(-1, (-1, _GROUP))
    scales = groups.abs().amax(-1).clamp(min=1e-10) / _LARGEST
    codes = (groups / scales[..., None]).to(torch.float8_e4m3fn).flatten(-2)
    return codes[..., : x.shape[-1]], scales


def linear_e4m3(x: Tensor, w: object, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """y = x W^T with x in e4m3 per 1 x 128 group and W packed as "e4m3_128x128".

    y[m, n] = sum over groups b of sx[m, b] sw[n, b] (sum over k in b of qx qw), sums in ``dtype``.
    x [.., K], w [N, K] -> [.., N] in x's dtype. Raises ShapeError for another format.
    """
    format = getattr(w, "format", None)
    require(format == "e4m3_128x128", "linear_e4m3", "w", "a weight packed as e4m3_128x128", format)
    stored = w.codes()
    codes, scales = quantise_rows(x)
    q_x, q_w = codes.to(dtype), stored.codes.view(torch.float8_e4m3fn).to(dtype)
    y = torch.zeros(*x.shape[:-1], w.shape[0], dtype=dtype)
    for b in range(scales.shape[-1]):
        k = slice(b * _GROUP, (b + 1) * _GROUP)
        product = q_x[..., k] @ q_w[:, k].T
        y += scales[..., b, None].to(dtype) * stored.scales[:, b].to(dtype) * product
    return y.to(x.dtype)
