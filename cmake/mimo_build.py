"""The build backend: scikit-build-core, plus what only a build with CUDA needs.

MIMO_CUDA=pip takes the compiler itself from PyPI. One minor version is pinned for all five
packages, because the compiler's own requirements are not pinned and would mix in headers of another
one. Nothing here, and nothing in pyproject.toml, requires torch: the extension does not link it.
"""

import os
import shutil

from scikit_build_core import build as _backend
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_DEFAULT_NVCC = "/usr/local/cuda/bin/nvcc"
TOOLKIT = (
    "nvidia-cuda-nvcc",
    "nvidia-nvvm",
    "nvidia-cuda-crt",
    "nvidia-cuda-runtime",
    "nvidia-cuda-cccl",
)
TOOLKIT_VERSION = "13.0.*"
CUTLASS = "nvidia-cutlass==4.2.0.0"  # headers only


def _cuda_requirements() -> list[str]:
    cuda = os.environ.get("MIMO_CUDA", "AUTO").lower()
    from_pip = cuda == "pip"
    found = cuda in ("auto", "on") and (shutil.which("nvcc") or os.path.exists(_DEFAULT_NVCC))
    cutlass = os.environ.get("MIMO_CUTLASS", "AUTO").lower() in ("auto", "on")
    toolkit = [f"{package}=={TOOLKIT_VERSION}" for package in TOOLKIT] if from_pip else []
    return [*toolkit, CUTLASS] if cutlass and (from_pip or found) else toolkit


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return [*_backend.get_requires_for_build_wheel(config_settings), *_cuda_requirements()]


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    return [*_backend.get_requires_for_build_editable(config_settings), *_cuda_requirements()]
