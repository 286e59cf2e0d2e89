from __future__ import annotations
import collections.abc
import typing
__all__: list[str] = ['Memory', 'Module', 'gpu_add_memory', 'gpu_configure', 'gpu_forget_outputs', 'gpu_images', 'gpu_remove_memory', 'gpu_substitute', 'gpu_take_launches', 'level']
class Memory:
    def __init__(self) -> None:
        ...
    def add(self, begin: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex, name: str, writable: bool, initialised: bool) -> bool:
        ...
    def remove(self, begin: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class Module:
    def __init__(self, ptx: str) -> None:
        ...
    def describe(self, kernel: str) -> dict:
        ...
    def launch(self, kernel: str, grid: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(3)"], block: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(3)"], cluster: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(3)"], shared: typing.SupportsInt | typing.SupportsIndex, params: bytes, memory: Memory, schedule: str, seed: typing.SupportsInt | typing.SupportsIndex, races: bool, checks: bool, metrics: bool, workers: typing.SupportsInt | typing.SupportsIndex, instruction_limit: typing.SupportsInt | typing.SupportsIndex) -> tuple:
        ...
    @property
    def kernels(self) -> list[str]:
        ...
    @property
    def target(self) -> str:
        ...
    @property
    def unsupported(self) -> dict[str, int]:
        ...
def gpu_add_memory(begin: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex, name: str, writable: bool) -> bool:
    ...
def gpu_configure(major: typing.SupportsInt | typing.SupportsIndex, minor: typing.SupportsInt | typing.SupportsIndex, multiprocessors: typing.SupportsInt | typing.SupportsIndex, schedule: str, seed: typing.SupportsInt | typing.SupportsIndex, races: bool, checks: bool, metrics: bool, workers: typing.SupportsInt | typing.SupportsIndex, instruction_limit: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def gpu_forget_outputs() -> None:
    ...
def gpu_images() -> list[tuple[int, str]]:
    """
    PTX of every registered object that the device would run: (number, text).
    """
def gpu_remove_memory(begin: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def gpu_substitute(binary: typing.SupportsInt | typing.SupportsIndex, text: str) -> None:
    """
    Run other PTX for an object; '': its own again.
    """
def gpu_take_launches() -> list:
    ...
def level() -> str:
    """
    The instruction-set level of the lane handlers.
    """
