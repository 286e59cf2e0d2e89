"""``bench --device cuda`` up to the GPU itself: small cases on a simulated one, and refusals."""

import importlib
import importlib.util
import json

import pytest
import torch
from benchmarks import harness, on_gpu

import mimo_native as mn
from mimo_native.cli.main import main
from mimo_native.testing import simulated_gpu


class Clock:
    """Calls, and reads a millisecond for each."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, call: on_gpu.Call) -> float:
        self.calls += 1
        call()
        return 1e-3


@pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
@pytest.mark.parametrize("family", on_gpu.FAMILIES)
def test_cases_are_measured_or_named_with_reasons(family: str) -> None:
    cases = importlib.import_module(f"tests.{family}.cases").CASES
    by_op = {case.op: case for case in reversed(cases) if case.flops}  # the first of each
    clock, found = Clock(), []
    with torch.no_grad(), simulated_gpu(capability=(8, 0), metrics=False, races=False) as gpu:
        for row in on_gpu.rows(
            list(by_op.values()), family, device="cpu", clock=clock, seconds=0.002
        ):
            found.append(row)
    assert [row.name.split()[1].split("-")[0] for row in found] == list(by_op)
    measured = [row for row in found if isinstance(row, harness.Row)]
    assert measured
    assert gpu.launches
    calls = sum(1 + len(row.rival_us) for row in measured)
    assert clock.calls == (2 + 5) * calls
    for row in measured:
        assert row.us == pytest.approx(1000)
        assert "not served" not in harness.line(row, 10)
    assert all(row.reasons for row in found if isinstance(row, on_gpu.Refused))


def test_what_a_gpu_does_not_serve_is_named() -> None:
    from tests.sampling.cases import SampleCase

    if importlib.util.find_spec("mimo_native._cuda_sim") is None:
        pytest.skip("built without nvcc: no CUDA kernels")
    case = SampleCase(rows=1, vocab=50, temperature=(0.8,), top_k=(4,))
    with simulated_gpu():
        [row] = on_gpu.rows([case], "sampling", device="cpu", clock=Clock(), seconds=0)
    assert isinstance(row, on_gpu.Refused)
    assert "does not serve top_k" in "; ".join(row.reasons)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["model"], "'model' times a whole model"),
        (["gemm", "--peers", "--threads", "2"], "--threads is for the CPU"),
        (["loss"], "'loss' has no cases for a GPU"),
    ],
)
def test_what_it_does_not_do_is_refused(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments, "--device", "cuda"]) != 0
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_said(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "gemm", "--device", "cuda"]) != 0
    said = capsys.readouterr()
    assert "unsupported" in said.err
    assert not said.out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_one_family_on_a_gpu(capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "norm_rope", "--device", "cuda", "--seconds", "0.01", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["device"] == torch.cuda.get_device_name()
    assert {row["clock"] for row in result["rows"]} == {"events"}
    assert all(row["us"] > 0 for row in result["rows"])
    assert mn.__version__ == result["mimo_native"]
