"""A linear weight that checkpoints know by the names of its parts.

q, k and v of a layer, gate and up of an MLP, and all experts of a layer are each one matrix here,
because one kernel call serves them; ``state_dict`` and ``load_state_dict`` speak the hub's names
all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import ShapeError, UnsupportedError
from ..ops import PackedWeight

__all__ = ["HubNames", "Part", "Weight", "wide"]


@dataclass(frozen=True)
class Part:
    """Rows [start, stop) of the matrix (of expert ``expert``, if there are experts)."""

    hub_name: str  # relative to the module that holds the Weight, e.g. "q_proj.weight"
    expert: int | None
    start: int
    stop: int


class Weight(nn.Module):
    """weight [N, K], or [E, N, K] with experts: a Parameter, or a PackedWeight after ``pack``.

    rows: {"q_proj": 768, "k_proj": 192, ...} in the order of the rows; a part named "" is the
    holder's own "weight". Called with x [.., K] it is ``ops.linear``; expert weights go to
    ``ops.expert_mlp`` whole.
    """

    def __init__(
        self, rows: dict[str, int], in_features: int, *, experts: int | None = None
    ) -> None:
        super().__init__()
        self.rows, self.in_features, self.experts = dict(rows), in_features, experts
        out_features = sum(rows.values())
        shape = (
            (out_features, in_features) if experts is None else (experts, out_features, in_features)
        )
        self.weight: Tensor | PackedWeight = nn.Parameter(torch.empty(shape))

    def forward(self, x: Tensor, *, out_dtype: torch.dtype | None = None) -> Tensor:
        return ops.linear(x, self.weight, out_dtype=out_dtype)

    def extra_repr(self) -> str:
        kind = self.weight.format if self.packed else str(self.weight.dtype)
        experts = "" if self.experts is None else f", experts={self.experts}"
        return f"{self.rows}, in_features={self.in_features}{experts}, {kind}"

    # ------------------------------------------------------------------ packed or not

    @property
    def packed(self) -> bool:
        return isinstance(self.weight, PackedWeight)

    def pack(self, format: str | None = None) -> None:
        """Replace the Parameter by the kernels' layout, in place; inference only."""
        if not self.packed:
            packed = ops.pack(self.weight.detach(), format=format or _format_of(self.weight.dtype))
            self.replace(packed)

    def unpack(self) -> None:
        """Back to a Parameter."""
        if self.packed:
            self.replace(nn.Parameter(self.weight.unpack()))

    def replace(self, weight: nn.Parameter | PackedWeight) -> None:
        """Make ``weight`` the whole matrix; its shape is the caller's duty."""
        if "weight" in self._parameters:
            del self._parameters["weight"]
        else:
            del self.weight
        self.weight = weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Weight":
        if self.packed:
            probe = torch.empty(1, dtype=self.weight.dtype)
            moved = fn(probe)
            # Codes serve activations of every dtype.
            same = moved.dtype == probe.dtype or self.weight.coded
            if not same or moved.device != probe.device:
                raise UnsupportedError(
                    "Module.to",
                    [f"weights packed as {self.weight.format} keep their dtype and device"],
                    remedy="Call model.unpack() first, or load the model with the dtype you want.",
                )
            return self
        return super()._apply(fn, recurse)

    # ------------------------------------------------------------------ the hub's names

    def parts(self) -> Iterator[Part]:
        for expert in range(self.experts) if self.experts is not None else (None,):
            start = 0
            for name, rows in self.rows.items():
                levels = ("" if expert is None else str(expert), name, "weight")
                yield Part(".".join(filter(None, levels)), expert, start, start + rows)
                start += rows

    def take(self, part: Part, tensor: Tensor) -> None:
        """Set one part of an unpacked weight from a checkpoint's tensor [rows, K]."""
        with torch.no_grad():
            whole = self.weight if part.expert is None else self.weight[part.expert]
            whole[part.start : part.stop].copy_(tensor)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        weight = self.weight.unpack() if self.packed else self.weight
        weight = weight if keep_vars else weight.detach()
        for part in self.parts():
            whole = weight if part.expert is None else weight[part.expert]
            destination[_parent(prefix) + part.hub_name] = whole[part.start : part.stop]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = {}
        for part in self.parts():
            tensor = state_dict.get(prefix + part.hub_name)
            key = _parent(prefix) + part.hub_name
            shape = (part.stop - part.start, self.in_features)
            if tensor is None:
                missing_keys.append(key)
            elif tuple(tensor.shape) != shape:
                error_msgs.append(f"{key}: expected shape {list(shape)}, got {list(tensor.shape)}")
            else:
                found[part] = tensor
        if error_msgs or not found:
            return
        repack = self.weight.format if self.packed else None
        self.unpack()
        for part, tensor in found.items():
            self.take(part, tensor)
        if repack is not None:
            self.pack(repack)


class HubNames(nn.Module):
    """A module with Weights of its own, whose parts' names in a state dict are this module's.

    ``load_state_dict`` hands a child what begins with the child's name, so the parts are put under
    that name first.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, child in self._modules.items():
            for part in child.parts() if isinstance(child, Weight) else ():
                tensor = state_dict.pop(prefix + part.hub_name, None)
                if tensor is not None:
                    state_dict[f"{prefix}{name}.{part.hub_name}"] = tensor
        super()._load_from_state_dict(state_dict, prefix, *args)


def wide(x: Tensor) -> torch.dtype:
    """The dtype of logits: float32, or float64 where the model runs in float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _parent(prefix: str) -> str:
    """ "model.layers.0.self_attn.qkv." -> "model.layers.0.self_attn." """
    return prefix[: prefix[:-1].rfind(".") + 1]


def _format_of(dtype: torch.dtype) -> str:
    formats = {torch.bfloat16: "bf16", torch.float32: "f32"}
    if dtype not in formats:
        raise ShapeError("Weight.pack", "dtype", expected="bfloat16 or float32", got=str(dtype))
    return formats[dtype]
