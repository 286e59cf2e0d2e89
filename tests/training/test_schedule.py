"""Stages as data: rates, batches, and one step after another."""

import math
from dataclasses import replace

import pytest

from mimo_native import ShapeError
from mimo_native.pretrain import report
from mimo_native.training import Piece, Schedule, Stage


def stage(**changes: object) -> Stage:
    fields = {
        "name": "s",
        "tokens": 1000,
        "seq_len": 10,
        "batch": 4,
        "lr": (Piece("linear", 200, 1.0), Piece("constant", 300, 1.0), Piece("cosine", 500, 0.2)),
        "mixture": {"a": 1.0},
    }
    return Stage(**(fields | changes))


def walk(schedule: Schedule) -> list:
    plans, tokens = [], 0
    while (plan := schedule.plan(tokens)) is not None:
        plans.append(plan)
        tokens += plan.tokens
    return plans


def test_learning_rate_of_each_piece() -> None:
    one = stage()
    assert one.lr_at(0, 0.0) == 0.0
    assert one.lr_at(10, 0.0) == pytest.approx(0.5)
    assert one.lr_at(20, 0.0) == one.lr_at(50, 0.0) == pytest.approx(1.0)
    assert one.lr_at(75, 0.0) == pytest.approx(0.6)
    assert one.lr_at(100, 0.0) == pytest.approx(0.2)
    quarter = 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2
    assert one.lr_at(50 + 12, 0.0) == pytest.approx(
        0.2 + 0.8 * (1 + math.cos(math.pi * 120 / 500)) / 2
    )
    assert one.lr_at(62, 0.0) > quarter - 0.05


def test_the_next_stage_starts_where_the_last_ended() -> None:
    schedule = Schedule((stage(), stage(lr=(Piece("cosine", 1000, 0.0),))))
    plans = walk(schedule)
    assert sum(plan.tokens for plan in plans) == schedule.tokens == 2000
    assert plans[24].lr == pytest.approx(0.2)
    assert 0.19 < plans[25].lr < 0.2
    assert plans[-1].lr == pytest.approx(0.0, abs=1e-12)
    assert [plan.index for plan in plans] == [0] * 25 + [1] * 25


def test_batch_ramp() -> None:
    ramp = stage(
        tokens=10_000,
        batch=20,
        batch_start=4,
        batch_ramp_tokens=5000,
        lr=(Piece("constant", 10_000, 1.0),),
    )
    plans = walk(Schedule((ramp,)))
    rows = [plan.rows for plan in plans]
    assert rows[0] == 4
    assert rows[:-1] == sorted(rows[:-1])
    assert max(rows) == 20
    assert sum(rows) == 1000
    half = next(plan for plan in plans if plan.row * 10 >= 2500)
    assert half.rows == 12
    assert [plan.row for plan in plans[1:]] == [sum(rows[: i + 1]) for i in range(len(rows) - 1)]


def test_a_step_never_crosses_a_stage() -> None:
    schedule = Schedule((stage(tokens=95, lr=(Piece("constant", 95, 1.0),)), stage()))
    plans = walk(schedule)
    assert [plan.rows for plan in plans[:4]] == [4, 4, 2, 4]
    assert plans[3].row == 0


def test_plan_is_a_function_of_the_tokens() -> None:
    schedule = report().scaled(1e-9, seq_len=64, batch=16)
    plans = walk(schedule)
    tokens = 0
    for plan in plans:
        assert schedule.plan(tokens) == plan
        tokens += plan.tokens
    with pytest.raises(ShapeError, match="whole number of rows"):
        schedule.plan(5)


def test_the_report() -> None:
    schedule = report()
    one, _, three = schedule.stages
    assert [s.tokens for s in schedule.stages] == [22e12, 4e12, 1e12]
    assert [s.seq_len for s in schedule.stages] == [32768, 32768, 262144]
    assert (one.batch, three.batch) == (2048, 256)
    assert [s.mtp_weight for s in schedule.stages] == [0.3, 0.1, 0.1]
    assert [s.bias_rate for s in schedule.stages] == [1e-3, 1e-3, 1e-5]
    assert {s.aux_coefficient for s in schedule.stages} == {1e-5}
    assert (one.rope_theta, three.rope_theta) == (640_000, 5_000_000)

    def lr(tokens: float) -> float:
        done, start = 0, 0.0
        for s in schedule.stages:
            if tokens <= done + s.tokens:
                return s.lr_at(round((tokens - done) / s.seq_len), start)
            done, start = done + s.tokens, s.lr[-1].end
        raise AssertionError

    assert lr(25e9) == pytest.approx(1.6e-4, rel=1e-5)
    assert lr(50e9) == lr(12e12) == pytest.approx(3.2e-4, rel=1e-5)
    assert lr(17e12) == pytest.approx(2.1e-4, rel=1e-5)
    assert lr(22e12) == pytest.approx(1e-4, rel=1e-5)
    assert lr(24e12) == pytest.approx(6.5e-5, rel=1e-5)
    assert lr(27e12) == pytest.approx(1e-5, rel=1e-5)
    assert one.batch_at(round(250e9 / 32768)) == (2048 + 256) // 2
    assert one.batch_at(math.ceil(500e9 / 32768)) == 2048


def test_scaling_keeps_the_recipe() -> None:
    whole, small = report(), report().scaled(1e-6, seq_len=64, batch=32)
    for a, b in zip(whole.stages, small.stages, strict=True):
        assert b.tokens == pytest.approx(a.tokens * 1e-6, rel=1e-6)
        assert (a.mtp_weight, a.bias_rate, a.rope_theta) == (
            b.mtp_weight,
            b.bias_rate,
            b.rope_theta,
        )
        assert b.lr[-1].end == a.lr[-1].end
    assert [s.seq_len for s in small.stages] == [64, 64, 512]
    assert [s.batch for s in small.stages] == [32, 32, 4]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tokens": 0}, "tokens"),
        ({"tokens": 999}, "lr"),
        ({"seq_len": 1}, "seq_len"),
        ({"batch": 0}, "batch"),
        ({"batch_start": 9}, "batch_start"),
        ({"mtp_weight": -0.1}, "mtp_weight"),
        ({"bias_rate": float("nan")}, "bias_rate"),
        ({"aux_coefficient": float("inf")}, "aux_coefficient"),
    ],
)
def test_bad_stages(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ShapeError, match=f"s: {field}: expected"):
        stage(**changes)
    with pytest.raises(ShapeError):
        replace(stage(), **changes)


def test_no_stages() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        Schedule(())
