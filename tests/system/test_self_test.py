"""``mimo_native.selftest`` passes, and fails where a kernel loses something."""

import pytest
import torch

import mimo_native as mn
from mimo_native import _C, ops


def test_it_passes_and_leaves_everything_as_it_was():
    level, threads = _C.isa(), torch.get_num_threads()
    report = mn.selftest()
    assert report.passed, str(report)
    assert {check.level for check in report.checks} == set(_C.isa_levels())
    assert (_C.isa(), torch.get_num_threads()) == (level, threads)
    assert str(report).splitlines()[-1].startswith("passed")


@pytest.mark.parametrize(
    ("name", "loses"),
    [
        ("attention_varlen", {"sink": None}),
        ("attention_varlen", {"window_keys": None}),
        ("attention_varlen", {"window_keys": 128}),
        ("attention_cached", {"sink": None}),
        ("attention_cached", {"window_keys": 128}),
        ("rope", {"value_scale": 1.0}),
    ],
)
def test_it_sees_what_is_lost(monkeypatch, name, loses):
    op = getattr(ops, name)

    def lossy(*args, **options):
        backend = mn.backends.explain("swiglu", torch.zeros(1, 2)).backend
        return op(*args, **(options if backend == "reference" else {**options, **loses}))

    monkeypatch.setattr(ops, name, lossy)
    report = mn.selftest()
    assert not report.passed
    assert "FAILED" in str(report)
