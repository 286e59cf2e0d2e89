"""How much memory a call needs beyond what is there: growth of the process's resident set.

Only the first large call of a process says it: later ones find pages that are resident already.
Linux only.
"""

from collections.abc import Callable
from pathlib import Path

__all__ = ["peak_growth"]


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which the resident set grows while ``call`` runs, at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
