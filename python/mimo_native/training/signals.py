"""SIGTERM, and SIGINT once, as a request to save and stop at the next step."""

import signal
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["StopRequest"]


class StopRequest:
    """While entered, catches the signals; ``asked`` is whether one came, on any rank.

    A second SIGINT interrupts as usual. Outside the main thread, where Python allows no handlers,
    nothing is caught.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:
                break
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])

    def asked(self) -> bool:
        """All ranks get the same answer, so that they stop after the same step."""
        if not dist.is_initialized():
            return self._asked
        flag = torch.tensor(int(self._asked))
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
