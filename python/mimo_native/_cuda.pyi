from __future__ import annotations
import torch
import typing
__all__: list[str] = ['driver_version', 'rms_norm', 'runtime_linkage', 'runtime_version', 'unavailable_reason']
def driver_version() -> str:
    """
    Newest CUDA version of the driver; '' without one.
    """
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
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
