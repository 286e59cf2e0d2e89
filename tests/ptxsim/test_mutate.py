"""The mutation campaign: which changes are made, that a sample of them is noticed, that what is
argued of survivors is about code that there is."""

import importlib.util
import re
from pathlib import Path

import pytest

from mimo_native.testing import simulated_gpu
from mimo_native.testing.mutate import (
    ARGUMENTS,
    SUBJECTS,
    Argument,
    Mutation,
    Ptx,
    apply,
    mutations,
    run,
)
from mimo_native.testing.mutate.arguments import source_file
from mimo_native.testing.ptxsim.module import interpreter

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
	setp.gtu.and.f32 %p2, %f1, %f2, %p1;
	setp.neu.f32 %p3, %f1, 0fFF800000;
	setp.eq.s32 %p4, %r1, 0;
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
    (12, "a bound shifted by one", "setp.geu.and.f32 %p2, %f1, %f2, %p1;"),
    (13, "an equality inverted", "setp.equ.f32 %p3, %f1, 0fFF800000;"),
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


def test_functions_belong_to_the_kernels_that_call_them() -> None:
    declared = ".func (.param .b64 r) g\n(\n.param .b64 p\n)\n;\n"
    defined = ".func (.param .b64 r) g(\n.param .b64 p\n)\n" + PTX
    calls = PTX.replace("{\n", "{\ncall (r), g, (p);\n", 1)
    ptx = Ptx(declared + ".entry f(\n)\n" + calls + ".entry h(\n)\n" + PTX + defined)
    assert [(kernel.name, kernel.entries) for kernel in ptx.kernels] == [
        ("f", {"f"}),
        ("h", {"h"}),
        ("g", {"f"}),
    ]
    assert all(ptx.kernel_of(mutation.line) for mutation in mutations(ptx.text))


def test_where_a_register_was_set() -> None:
    asm = "{\nmov.b32 {%r8, %r9}, %r1;\n}\n"
    ptx = Ptx(".visible .entry f(\n)\n" + PTX.replace("{\n", "{\n" + asm, 1) + "// the end")
    (kernel,) = ptx.kernels
    assert (kernel.name, kernel.first, kernel.last) == ("f", 1, len(ptx.lines) - 1)
    assert kernel.entries == {"f"}
    assert ptx.setter("%p1", 8) == "setp.lt.s32 %p1, %r1, %r2;"
    assert ptx.setter("%r1", kernel.last) == "add.s32 %r1, %r2, 1;"
    assert ptx.setter("%r2", kernel.last) == ""


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda argument: argument.name)
def test_what_is_argued_is_about_lines_that_there_are(argument: Argument) -> None:
    assert len(argument.why) > 40
    texts = [text for name in argument.files for text in source_file(name)]
    assert all(source_file(name) for name in argument.files)
    assert not argument.line or any(re.search(argument.line, text) for text in texts)


cuda = pytest.mark.skipif(
    importlib.util.find_spec("mimo_native._cuda_sim") is None,
    reason="built without nvcc: no CUDA kernels",
)


@cuda
def test_every_argument_covers_a_mutant() -> None:
    with simulated_gpu(capability=(8, 0)):
        images = [Ptx(text) for _, text in interpreter().gpu_images()]
    left = list(ARGUMENTS)
    for ptx in images:
        for mutation in mutations(ptx.text):
            left = [argument for argument in left if not argument.covers(ptx, mutation)]
    assert not left, [argument.name for argument in left]


@cuda
def test_a_campaign_is_taken_up_where_it_was_cut_off(tmp_path: Path) -> None:
    record = tmp_path / "rms_norm.jsonl"
    first = run(SUBJECTS["rms_norm"], sample=3, record=record)
    text = record.read_text()
    assert len(text.splitlines()) >= 4
    record.write_text(text[: len(text) - 20])  # cut off inside the last line
    again = run(SUBJECTS["rms_norm"], sample=3, record=record)
    assert again.outcomes == first.outcomes
    assert len(record.read_text().splitlines()) == len(text.splitlines()) + 1


@cuda
def test_a_sample_of_rms_norm_is_noticed() -> None:
    result = run(SUBJECTS["rms_norm"], sample=25)
    assert len(result.outcomes) == 25
    assert result.rate > 0.7, str(result)
    barriers = [o for o in result.outcomes if o.mutation.kind == "barrier removed"]
    assert all(outcome.noticed for outcome in barriers)
    assert run(SUBJECTS["rms_norm"], sample=0).outcomes == ()
