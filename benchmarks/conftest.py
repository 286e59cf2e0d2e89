"""``pytest benchmarks/ --benchmark-only``: the ``compare`` fixture, one line per case, JSON."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mimo_native import _C

from .harness import Contest, Row, header, line, measure
from .machine import Machine, cpu_name
from .record import record, save, write_json

_rows: list[Row] = []
_machine = Machine()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mimo_native")
    group.addoption(
        "--bench-threads", default="1", help="thread counts to measure at, e.g. 1,2 (default 1)"
    )
    group.addoption(
        "--bench-seconds",
        type=float,
        default=0.4,
        help="time per case and thread count; a case of which one call takes longer is skipped",
    )
    group.addoption("--bench-peers", action="store_true", help="time installed peers too")
    group.addoption("--bench-json", type=Path, help="write rows, machine and build here")
    group.addoption(
        "--bench-save", action="store_true", help="write a file per family into benchmarks/results"
    )


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
    """compare(ours, torch=None, *, flops, bytes, dtype, working_set=None, peers={}, memory=None).

    ``peers`` maps a name to a function that prepares the peer's call, or gives None; see harness
    and peers. ``memory`` measures the bytes that each call needs, by its name. Returns the Row.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(bench_threads)

    def run(
        ours, torch=None, *, flops, bytes, dtype, working_set=None, peers=None, memory=None
    ) -> Row:
        limit = None
        if flops or bytes:
            size = working_set or bytes
            limit = _machine.limit(
                flops=flops, bytes=bytes, dtype=dtype, working_set=size, threads=bench_threads
            )
        seconds = request.config.getoption("--bench-seconds")
        if limit and limit.seconds > seconds:
            pytest.skip(f"a call takes over {limit.seconds:.2g} s; see --bench-seconds")
        calls = {"ours": ours}
        if torch is not None:
            calls["torch"] = torch
        if request.config.getoption("--bench-peers"):
            prepared = {name: prepare() for name, prepare in (peers or {}).items()}
            calls |= {name: call for name, call in prepared.items() if call is not None}
        contest = Contest(calls, threads=bench_threads, seconds=seconds)

        def rivals() -> None:
            for name in contest.rivals:
                contest.sample(name)

        benchmark.pedantic(
            lambda: contest.sample(contest.ours), setup=rivals, rounds=contest.rounds
        )
        row = measure(
            contest,
            name=_name(request, bench_threads),
            threads=bench_threads,
            limit=limit,
            flops=flops,
            bytes=bytes,
            memory=memory() if memory else None,
        )
        benchmark.extra_info.update(row.as_dict(), calls_per_round=contest.repeats["ours"])
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
        write_json(target, record(_rows, _machine))
        terminalreporter.write_line(f"written: {target}")
    if config.getoption("--bench-save"):
        for path in save(_rows, _machine):
            terminalreporter.write_line(f"written: {path}")


def _name(request: pytest.FixtureRequest, threads: int) -> str:
    """benchmarks/bench_gemm.py::test_linear[1x4096-1t] -> gemm linear 1x4096."""
    family = request.path.stem.removeprefix("bench_")
    labels = request.node.callspec.id.split("-")
    labels.remove(f"{threads}t")
    function = request.function.__name__.removeprefix("test_")
    return " ".join(filter(None, [family, function, "-".join(labels)]))
