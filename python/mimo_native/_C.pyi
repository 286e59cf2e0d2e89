from __future__ import annotations
import torch
import typing
__all__: list[str] = ['advise_huge_pages', 'isa', 'isa_levels', 'max_threads', 'rms_norm', 'rope', 'rope_table', 'set_isa']
def advise_huge_pages(storage: torch.Tensor) -> bool:
    ...
def isa() -> str:
    """
    The level in use.
    """
def isa_levels() -> list[str]:
    """
    Levels this CPU can run, weakest first.
    """
def max_threads() -> int:
    ...
def rms_norm(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex) -> None:
    ...
def rope(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, q_out: torch.Tensor, k_out: torch.Tensor, v_out: torch.Tensor, value_scale: typing.SupportsFloat | typing.SupportsIndex) -> None:
    ...
def rope_table(positions: torch.Tensor, table: torch.Tensor, theta: typing.SupportsFloat | typing.SupportsIndex, rotary_dim: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def set_isa(level: str) -> None:
    ...
