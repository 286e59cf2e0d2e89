"""Every checker finds the mistake it is for, and says nothing about the same kernel without it."""

from collections.abc import Callable

import pytest
import torch

from mimo_native.testing import ptxsim
from mimo_native.testing.ptxsim import CheckError, Output

SCHEDULES = [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]


def ints(n: int) -> torch.Tensor:
    return torch.arange(n, dtype=torch.int32)


def zeros(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int32)


# kernel, grid, block, arguments, kinds of which one must be reported
CASES: list[tuple[str, int, int, Callable[[], list], set[str]]] = [
    ("reverse", 1, 256, lambda: [ints(256)], {"race", "uninitialised"}),
    ("rounds", 1, 128, lambda: [ints(128)], {"race"}),
    ("within_warp", 1, 32, lambda: [ints(32)], {"race"}),
    ("bytes", 1, 128, lambda: [ints(128).to(torch.uint8)], {"race", "uninitialised"}),
    ("named", 1, 128, lambda: [ints(128)], {"race", "uninitialised"}),
    ("same_place", 1, 128, lambda: [ints(128)], {"race"}),
    ("shared_overflow", 1, 100, lambda: [ints(100)], {"out of bounds"}),
    ("global_overflow", 3, 64, lambda: [zeros(150), 150], {"out of bounds"}),
    ("misaligned", 1, 1, lambda: [ints(16)], {"misaligned"}),
    ("uninitialised", 1, 64, lambda: [ints(64)], {"uninitialised"}),
    ("early_exit", 1, 32, lambda: [ints(32)], {"inactive lane"}),
    ("half_sync", 1, 32, lambda: [ints(32)], {"deadlock"}),
    ("two_barriers", 1, 64, lambda: [ints(64)], {"inactive lane"}),
    ("blocks", 4, 32, lambda: [zeros(4)], {"race"}),
    ("last_block", 6, 64, lambda: [Output(zeros(192)), zeros(1), zeros(1)], {"race"}),
    ("flag", 2, 64, lambda: [zeros(1), zeros(64), zeros(64)], {"race"}),
    ("read_only", 1, 32, lambda: [ints(32), Output(zeros(32))], {"uninitialised"}),
]
IDS = [case[0] for case in CASES]


def kernel_name(module: ptxsim.Module, name: str, bug: bool) -> str:
    return module.find(f"{len(name)}{name}ILb{int(bug)}E")


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize(("name", "grid", "block", "make", "kinds"), CASES, ids=IDS)
def test_the_mistake_is_found(
    checks: ptxsim.Module, name: str, grid: int, block: int, make: Callable[[], list],
    kinds: set[str], schedule: str, seed: int,
) -> None:  # fmt: skip
    with pytest.raises(CheckError) as caught:
        checks.launch(
            kernel_name(checks, name, True), grid, block, make(), schedule=schedule, seed=seed
        )
    found = {report.kind for report in caught.value.reports}
    assert found & kinds, str(caught.value)
    for report in caught.value.reports:
        assert "checks.cu:" in report.source + report.called_from


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize(("name", "grid", "block", "make", "kinds"), CASES, ids=IDS)
def test_the_control_is_silent(
    checks: ptxsim.Module, name: str, grid: int, block: int, make: Callable[[], list],
    kinds: set[str], schedule: str, seed: int,
) -> None:  # fmt: skip
    checks.launch(
        kernel_name(checks, name, False), grid, block, make(),
        schedule=schedule, seed=seed,
    )  # fmt: skip


def test_controls_compute_what_they_should(checks: ptxsim.Module) -> None:
    x = ints(256)
    checks.launch(kernel_name(checks, "reverse", False), 1, 256, [x])
    assert x.tolist() == list(range(255, -1, -1))
    parts, counter, total = zeros(192), zeros(1), zeros(1)
    checks.launch(kernel_name(checks, "last_block", False), 6, 64, [parts, counter, total])
    assert total.item() == 32 * sum(range(6))


def test_blocks_on_several_workers_raise_no_false_alarm(checks: ptxsim.Module) -> None:
    # A clock that is published after its value was a false race in 1 of 80 such launches.
    for seed in range(400):
        args = [Output(zeros(768)), zeros(1), zeros(1)]
        checks.launch(kernel_name(checks, "last_block", False), 24, 64, args, seed=seed, workers=4)
    for seed in range(60):
        for name, grid, block, make, _ in CASES:
            if name in ("blocks", "flag"):
                kernel = kernel_name(checks, name, False)
                checks.launch(kernel, grid, block, make(), seed=seed, workers=4)
