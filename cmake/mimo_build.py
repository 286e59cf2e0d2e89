"""The build backend: scikit-build-core, plus what only a build with CUDA needs.

MIMO_CUDA=pip takes the compiler itself from PyPI. One minor version is pinned for all five
packages, because the compiler's own requirements are not pinned and would mix in headers of another
one. Nothing here, and nothing in pyproject.toml, requires torch: the extension does not link it.
"""

import os

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

TOOLKIT = (
    "nvidia-cuda-nvcc",
    "nvidia-nvvm",
    "nvidia-cuda-crt",
    "nvidia-cuda-runtime",
    "nvidia-cuda-cccl",
)
TOOLKIT_VERSION = "13.0.*"


def _cuda_requirements() -> list[str]:
    if os.environ.get("MIMO_CUDA", "AUTO").lower() != "pip":
        return []
    return [f"{package}=={TOOLKIT_VERSION}" for package in TOOLKIT]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return [*_backend.get_requires_for_build_wheel(config_settings), *_cuda_requirements()]


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    return [*_backend.get_requires_for_build_editable(config_settings), *_cuda_requirements()]
