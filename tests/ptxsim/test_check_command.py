"""python -m mimo_native.testing.ptxsim check, on kernels with and without a mistake."""

from pathlib import Path

import pytest

from mimo_native.testing import ptxsim
from mimo_native.testing.ptxsim.__main__ import main, parse_argument

KERNEL = """
__global__ void reverse(int n, const float* x, float* y) {
  __shared__ float tile[256];
  if (threadIdx.x < n) tile[threadIdx.x] = x[threadIdx.x];
  BARRIER;
  if (threadIdx.x < n) y[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    if ptxsim.find_nvcc() is None:
        pytest.skip("no nvcc found")
    path = tmp_path / "reverse.cu"
    path.write_text(KERNEL)
    return str(path)


def command(source: str, *more: str) -> list[str]:
    return ["check", source, "--block", "256", *more]


def test_a_race_is_found_by_line(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--args", "256", "f32[256]", "out:f32[256]"]
    assert main(command(source, "-DBARRIER=", *args)) == 1
    text = capsys.readouterr().out
    assert "race" in text
    assert "reverse.cu:6" in text
    assert main(command(source, "-DBARRIER=__syncthreads()", "--stats", *args)) == 0
    assert "nothing found in 6 schedules" in capsys.readouterr().out


def test_an_access_out_of_bounds_is_found(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["-DBARRIER=__syncthreads()", "--args", "256", "f32[255]", "out:f32[256]"]
    assert main(command(source, *args)) == 1
    assert "out of bounds" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["f32", "q7[3]", "1.2.3"])
def test_a_bad_argument_is_named(word: str) -> None:
    with pytest.raises(ValueError, match="argument"):
        parse_argument(word)


def test_the_wrong_number_of_arguments_is_refused(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(source, "-DBARRIER=", "--args", "256")) == 2
    assert "expected 3 arguments" in capsys.readouterr().err


def test_a_kernel_is_found_by_its_name(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(source).write_text(
        "__global__ void spin(volatile int* flag) { while (*flag == 0); }\n"
        "__global__ void spin_more(int* flag) { *flag = 1; }\n"
    )
    args = ["--args", "i32[1]=zeros", "--block", "32", "--limit", "100000"]
    assert main(["check", source, "--kernel", "spin", *args]) == 1
    text = capsys.readouterr().out
    assert "hang: still running after" in text
    assert "1 found in 1 schedule\n" in text  # the others would hang as long
    assert main(["check", source, "--kernel", "spin_mo", *args]) == 0
    assert "spin_more" in capsys.readouterr().out
    assert main(["check", source, "--kernel", "pin", *args]) == 2
    assert "several kernels are called 'pin'" in capsys.readouterr().err
