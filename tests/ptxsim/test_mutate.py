"""The mutation campaign: which changes are made, and that a sample of them is noticed."""

import importlib.util

import pytest

from mimo_native.testing.mutate import SUBJECTS, Mutation, apply, mutations, run

PTX = """\
{
	setp.lt.s32 %p1, %r1, %r2;
	@%p1 bra $L__BB0_2;
	bar.sync 	0;
	cp.async.wait_group 1;
	fence.proxy.async;
	cp.async.commit_group;
	shfl.sync.bfly.b32 %r3, %r4, 1, 31, -1;
	mbarrier.init.shared.b64 [%r1], 128;
	mbarrier.try_wait.parity.shared.b64 p, [%r1], %r2;
	add.s32 %r1, %r2, 1; // bar.sync 0;
}
"""
EXPECTED = {
    (2, "a bound shifted by one", "setp.le.s32 %p1, %r1, %r2;"),
    (3, "predicate negated", "@!%p1 bra $L__BB0_2;"),
    (3, "predicate removed", "bra $L__BB0_2;"),
    (4, "barrier removed", "(nothing)"),
    (4, "another barrier", "bar.sync 	5;"),
    (5, "wait removed", "(nothing)"),
    (5, "one group more may be under way", "cp.async.wait_group 2;"),
    (6, "fence removed", "(nothing)"),
    (7, "commit removed", "(nothing)"),
    (8, "a lane left out of the mask", "shfl.sync.bfly.b32 %r3, %r4, 1, 31, 2147483647;"),
    (9, "initialisation removed", "(nothing)"),
    (9, "one more expected", "mbarrier.init.shared.b64 [%r1], 129;"),
    (10, "the wait is over at once", "setp.eq.u32 p, 0, 0;"),
}


def test_every_kind_of_mutation_is_made_once() -> None:
    found = mutations(PTX)
    assert {(m.line, m.kind, m.replacement) for m in found} == EXPECTED
    assert len(found) == len(EXPECTED)


def test_a_mutant_differs_in_one_line() -> None:
    mutant = apply(PTX, Mutation(4, "barrier removed", "bar.sync 	0;", "(nothing)"))
    changed = [
        i
        for i, (a, b) in enumerate(zip(PTX.split("\n"), mutant.split("\n"), strict=True))
        if a != b
    ]
    assert changed == [3]


@pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)
def test_a_sample_of_rms_norm_is_noticed() -> None:
    result = run(SUBJECTS["rms_norm"], sample=25)
    assert len(result.outcomes) == 25
    assert result.rate > 0.7, str(result)
    barriers = [o for o in result.outcomes if o.mutation.kind == "barrier removed"]
    assert all(outcome.noticed for outcome in barriers)
    assert run(SUBJECTS["rms_norm"], sample=0).outcomes == ()
