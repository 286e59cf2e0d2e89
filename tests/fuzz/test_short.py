"""A few problems of the campaign ``python -m tests.fuzz``."""

import importlib.util

import pytest

from .draws import BACKWARD, DRAWS
from .models import check_model, check_model_on_gpu
from .problem import check, check_on_gpu, draw

NOT_ON_GPU = {"linear_cross_entropy", "linear_logprob", "linear_reverse_kl"}


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("op", DRAWS)
def test_random_problems(op: str, number: int) -> None:
    check(op, draw(op, number))


@pytest.mark.parametrize("number", range(8))
def test_random_models(number: int) -> None:
    check_model(number)


_GPU = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)


@_GPU
@pytest.mark.parametrize("op", sorted(set(DRAWS) - set(BACKWARD) - NOT_ON_GPU))
def test_random_problems_on_the_simulated_gpu(op: str) -> None:
    served = [check_on_gpu(op, draw(op, number), "random") for number in range(8)]
    assert any(served)


@_GPU
@pytest.mark.parametrize("op", sorted(NOT_ON_GPU))
def test_what_the_gpu_does_not_serve(op: str) -> None:
    assert not check_on_gpu(op, draw(op, 1), "random")


@_GPU
@pytest.mark.parametrize("number", range(2))
def test_random_models_on_the_simulated_gpu(number: int) -> None:
    check_model_on_gpu(number, "random")
