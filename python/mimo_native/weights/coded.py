"""Coded tensors of a hub checkpoint: e4m3 in scaled blocks, and mxfp4 experts, with their scales.

e4m3    X.weight F8_E4M3 [n, k]      X.weight_scale_inv F32 [blocks, blocks]; it multiplies
mxfp4   X.weight U8 [n, k / 2]       X.weight_scale U8 or F8_E8M0 [n, k / 32]
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..config import LayerConfig
from ..errors import CheckpointError
from ..ops._coded import Codes, stored_codes
from . import block_scales as grids
from .layout import TensorSpec
from .safetensors_header import StoredTensor

__all__ = ["SCALE_NAMES", "check_coded", "coded_format", "codes_of", "weight_of_scale"]

# By the dtype of the weight.
SCALE_NAMES = {"F8_E4M3": "_scale_inv", "U8": "_scale"}
_FORMATS = {"F8_E4M3": "e4m3_128x128", "U8": "mxfp4"}


def coded_format(stored: StoredTensor) -> str | None:
    """The weight format of a stored tensor, None where it holds plain values."""
    return _FORMATS.get(stored.dtype)


def weight_of_scale(name: str, stored: Mapping[str, StoredTensor]) -> str | None:
    """The coded weight whose scale ``name`` is, None where there is none."""
    for dtype, suffix in SCALE_NAMES.items():
        weight = stored.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if weight is not None and weight.dtype == dtype:
            return weight.name
    return None


def check_coded(
    where: str, name: str, spec: TensorSpec, stored: Mapping[str, StoredTensor]
) -> None:
    """Shape of a coded weight, and presence and kind of its scale. Raises CheckpointError."""
    weight = stored[name]
    suffix, (rows, *columns) = SCALE_NAMES[weight.dtype], spec.shape
    packed = weight.dtype == "U8"
    shape = (rows, *(n // 2 for n in columns)) if packed else spec.shape
    if len(spec.shape) != 2 or weight.shape != shape:
        raise CheckpointError(
            where, name, expected=f"shape {list(shape)} from config.json",
            got=f"{list(weight.shape)} in {weight.file.name}",
            remedy="config.json and the weights are of different models.",
        )  # fmt: skip
    scale = stored.get(name + suffix)
    if packed:
        kinds, wide = ("U8", "F8_E8M0"), -(-columns[0] // 32)
    else:
        kinds, wide = ("F32",), -(-columns[0] // grids.BLOCK)
    right = scale is not None and scale.dtype in kinds and len(scale.shape) == 2
    if not right or scale.shape[1] != wide or (packed and scale.shape[0] != rows):
        tall = rows if packed else "row blocks"
        raise CheckpointError(
            where, name + suffix, expected=f"{' or '.join(kinds)} [{tall}, {wide}]",
            got="no such tensor" if scale is None else f"{scale.dtype} {list(scale.shape)}",
            remedy="Fetch the scales too: codes mean nothing without them.",
        )  # fmt: skip


def codes_of(
    where: str,
    name: str,
    weight: Tensor,
    load: Callable[[str], Tensor],
    layer: LayerConfig | None,
    *,
    ranks: int,
) -> Codes:
    """``weight`` with the scales of its rows; ``load`` reads another tensor of the checkpoint.

    layer: that of a projection of q, k or v; ranks: that a fused one is made of. Raises
    CheckpointError for a grid that fits no known layout and for scales that are no numbers.
    """
    if weight.dtype == torch.uint8:
        format, scale = "mxfp4", load(name + "_scale").view(torch.uint8)
    else:
        format, grid = "e4m3_128x128", load(name + "_scale_inv")
        scale = _row_scales(where, name, weight.shape[0], grid, load, layer, ranks)
    try:
        return stored_codes(weight, format, scale)
    except ValueError as error:
        raise CheckpointError(where, name, expected="codes with scales", got=str(error)) from None


def _row_scales(
    where: str,
    name: str,
    rows: int,
    grid: Tensor,
    load: Callable[[str], Tensor],
    layer: LayerConfig | None,
    ranks: int,
) -> Tensor:
    if layer is not None and name.endswith(".qkv_proj.weight"):
        return grids.fused_row_scales(grid, rows, ranks=ranks, where=where)
    if layer is not None and name.endswith(".k_proj.weight"):
        if grids.has_rank_grid(layer, grid.shape[0]):
            return grids.key_row_scales(grid, layer)
    elif layer is not None and name.endswith(".v_proj.weight"):
        key_grid = load(name.replace(".v_proj.", ".k_proj.") + "_scale_inv")
        if grids.has_rank_grid(layer, key_grid.shape[0]):
            return grids.value_row_scales(key_grid, grid, layer, where=where)
    if grid.shape[0] != -(-rows // grids.BLOCK):
        raise CheckpointError(
            where, name + "_scale_inv", expected=f"{-(-rows // grids.BLOCK)} rows of blocks",
            got=str(grid.shape[0]),
        )  # fmt: skip
    return grids.uniform_row_scales(grid, rows)
