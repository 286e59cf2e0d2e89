"""``pytest benchmarks/ --benchmark-only``: the ``compare`` fixture, one line per case, JSON."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mimo_native as mn
from mimo_native import _C
from mimo_native._build_info import BUILD_INFO

from .harness import Pair, Row, header, line, measure
from .machine import Machine, cpu_name

_rows: list[Row] = []
_machine = Machine()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mimo_native")
    group.addoption(
        "--bench-threads", default="1", help="thread counts to measure at, e.g. 1,2 (default 1)"
    )
    group.addoption(
        "--bench-seconds", type=float, default=0.2, help="time per case and thread count"
    )
    group.addoption("--bench-json", type=Path, help="write rows, machine and build here")


def pytest_configure(config: pytest.Config) -> None:
    # The lines below say more than the plugin's own table.
    config.option.benchmark_quiet = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bench_threads" in metafunc.fixturenames:
        counts = [int(n) for n in metafunc.config.getoption("--bench-threads").split(",")]
        metafunc.parametrize("bench_threads", counts, ids=[f"{n}t" for n in counts])


@pytest.fixture
def compare(
    benchmark, bench_threads: int, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Row]]:
    """compare(ours, torch=None, *, flops, bytes, dtype, working_set=None) -> Row; see harness."""
    before = torch.get_num_threads()
    torch.set_num_threads(bench_threads)

    def run(ours, torch=None, *, flops, bytes, dtype, working_set=None) -> Row:
        seconds = request.config.getoption("--bench-seconds")
        pair = Pair(ours, torch, threads=bench_threads, seconds=seconds)
        benchmark.pedantic(
            lambda: pair.sample(0),
            setup=(lambda: pair.sample(1)) if torch is not None else None,
            rounds=pair.rounds,
        )
        row = measure(
            pair,
            name=_name(request, bench_threads),
            threads=bench_threads,
            machine=_machine,
            flops=flops,
            bytes=bytes,
            dtype=dtype,
            working_set=working_set,
        )
        benchmark.extra_info.update(row.as_dict(), calls_per_round=pair.repeats[0])
        _rows.append(row)
        return row

    with torch.no_grad():
        yield run
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not _rows:
        return
    width = max(len(row.name) for row in _rows)
    terminalreporter.section(f"{cpu_name()}, {_C.isa()}, torch {torch.__version__}")
    terminalreporter.write_line(header(width))
    for row in _rows:
        terminalreporter.write_line(line(row, width))
    for key, value in _machine.probed.items():
        terminalreporter.write_line(f"probed: {key}: {value / 1e9:.1f} G")
    target: Path | None = config.getoption("--bench-json")
    if target is not None:
        part = target.with_name(target.name + ".part")
        part.write_text(json.dumps(_record(), indent=1) + "\n")
        part.replace(target)
        terminalreporter.write_line(f"written: {target}")


def _record() -> dict[str, object]:
    return {
        "cpu": cpu_name(),
        "isa": _C.isa(),
        "build": BUILD_INFO,
        "commit": _commit(),
        "versions": {"mimo_native": mn.__version__, "torch": torch.__version__},
        "probe": _machine.probed,
        "rows": [row.as_dict() for row in _rows],
    }


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or "unknown"


def _name(request: pytest.FixtureRequest, threads: int) -> str:
    """benchmarks/bench_gemm.py::test_linear[1x4096-1t] -> gemm linear 1x4096."""
    family = request.path.stem.removeprefix("bench_")
    labels = request.node.callspec.id.split("-")
    labels.remove(f"{threads}t")
    function = request.function.__name__.removeprefix("test_")
    return " ".join(filter(None, [family, function, "-".join(labels)]))
