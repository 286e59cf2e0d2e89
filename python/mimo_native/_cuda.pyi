from __future__ import annotations
import torch
import typing
__all__: list[str] = ['driver_version', 'rms_norm', 'rope', 'rope_table', 'runtime_linkage', 'runtime_version', 'unavailable_reason']
def driver_version() -> str:
    """
    Newest CUDA version of the driver; '' without one.
    """
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
