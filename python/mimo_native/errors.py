"""The three ways a request can be wrong. All are ``ValueError``s.

Every message names the operation, the argument, what was expected, what was given and the remedy.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["CheckpointError", "ShapeError", "UnsupportedError"]


def _sentence(op: str, argument: str, expected: str, got: str, remedy: str) -> str:
    text = f"{op}: {argument}: expected {expected}, got {got}."
    return f"{text} {remedy}" if remedy else text


class _Error(ValueError):
    """An error that another process can hand on as it is, though its arguments have names."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[_Error], args: tuple[Any, ...], fields: dict[str, Any]) -> _Error:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class ShapeError(_Error):
    """An argument has the wrong shape, dtype, device, stride or value."""

    def __init__(
        self, op: str, argument: str, *, expected: str, got: str, remedy: str = ""
    ) -> None:
        super().__init__(_sentence(op, argument, expected, got, remedy))
        self.op, self.argument, self.expected, self.got = op, argument, expected, got
        self.remedy = remedy


class UnsupportedError(_Error):
    """The request is well formed, but no backend or mode can serve it; ``reasons`` says why."""

    def __init__(self, op: str, reasons: Sequence[str], *, remedy: str = "") -> None:
        text = f"{op}: unsupported: " + "; ".join(reasons) + "."
        super().__init__(f"{text} {remedy}" if remedy else text)
        self.op, self.reasons, self.remedy = op, tuple(reasons), remedy


class CheckpointError(_Error):
    """A file or directory of weights is missing, damaged or does not fit the configuration."""

    def __init__(
        self, where: str, argument: str, *, expected: str, got: str, remedy: str = ""
    ) -> None:
        super().__init__(_sentence(where, argument, expected, got, remedy))
        self.where, self.argument, self.expected, self.got = where, argument, expected, got
        self.remedy = remedy
