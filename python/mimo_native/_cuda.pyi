from __future__ import annotations
import torch
import typing
__all__: list[str] = ['driver_version', 'gemm_plan', 'grouped_gemm', 'linear', 'rms_norm', 'rope', 'rope_table', 'runtime_linkage', 'runtime_version', 'unavailable_reason']
def driver_version() -> str:
    """
    Newest CUDA version of the driver; '' without one.
    """
def gemm_plan(rows: typing.SupportsInt | typing.SupportsIndex, outputs: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, groups: typing.SupportsInt | typing.SupportsIndex, bf16: bool, multiprocessors: typing.SupportsInt | typing.SupportsIndex) -> tuple[int, str]:
    """
    (tile, description) of a product of aligned tensors.
    """
def grouped_gemm(x: torch.Tensor, w: torch.Tensor, layout: None, group_sizes: torch.Tensor, y: torch.Tensor) -> None:
    ...
def linear(x: torch.Tensor, w: torch.Tensor, layout: None, y: torch.Tensor) -> None:
    ...
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
    ...
def rope(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, value_scale: typing.SupportsFloat | typing.SupportsIndex, opposite: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ...
def rope_table(positions: torch.Tensor, theta: typing.SupportsFloat | typing.SupportsIndex, rotary_dim: typing.SupportsInt | typing.SupportsIndex) -> torch.Tensor:
    ...
def runtime_linkage() -> str:
    """
    'static', 'shared' or 'simulated'.
    """
def runtime_version() -> str:
    """
    CUDA version of the runtime, as in '13.0'.
    """
def unavailable_reason() -> str:
    """
    Why no kernel can run on this machine; empty when one can.
    """
