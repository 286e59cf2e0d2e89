"""Checkers that the other files do not provoke, beside controls; and that none is left out."""

import ctypes
import re
from pathlib import Path

import pytest
import torch

from mimo_native.testing import ptxsim, simulated_gpu
from mimo_native.testing.ptxsim import CheckError, Output

from .snippet import HEADER

ROOT = Path(__file__).resolve().parents[2]

KERNEL = """
.const .align 4 .b8 table[16] = {{1, 0, 0, 0}};
.visible .entry kernel(.param .u64 p_in, .param .u64 p_out)
{{
  .reg .pred %p<4>;
  .reg .b32 %r<8>, %tile, %bar;
  .reg .b64 %rd<6>;
  .shared .align 128 .b8 tile[512];
  .shared .align 8 .b64 bar;
  mov.u32 %r0, %tid.x;
  mov.u32 %tile, tile;
  mov.u32 %bar, bar;
  ld.param.u64 %rd0, [p_in];
  ld.param.u64 %rd1, [p_out];
  mul.wide.u32 %rd2, %r0, 4;
  add.u64 %rd2, %rd2, %rd1;
  mov.u32 %r1, %r0;
  {body}
  st.global.b32 [%rd2], %r1;
  ret;
}}"""

TENSOR = """
  setp.ne.u32 %p0, %r0, 0;
  @%p0 bra done;
  mbarrier.init.shared::cta.b64 [%bar], 1;
  fence.mbarrier_init.release.cluster;
  mov.u32 %r2, 0;
  cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%tile], [%rd0, {%r2, %r2}], [%bar];
done:
"""  # noqa: E501

# body, what is replaced, by what, threads, the kind that must be reported
CASES = {
    "a lane that the mask does not name": (
        "shfl.sync.idx.b32 %r1, %r1, 0, 31, -1;", "31, -1", "31, 65535", 32, "member mask",
    ),
    "a copy of more than it may read": (
        "mov.u32 %r2, 16;\n  shl.b32 %r3, %r0, 4;\n  add.u32 %r3, %r3, %tile;\n"
        "  cp.async.cg.shared.global [%r3], [%rd0], 16, %r2;\n"
        "  cp.async.commit_group;\n  cp.async.wait_group 0;",
        "mov.u32 %r2, 16", "mov.u32 %r2, 20", 32, "copy size",
    ),
    "a store to constants": (
        "mov.u64 %rd3, table;\n  cvta.const.u64 %rd3, %rd3;\n  ld.global.b32 %r1, [%rd3];",
        "ld.global.b32 %r1, [%rd3]", "st.global.b32 [%rd3], %r1", 1, "read-only",
    ),
    "a barrier that there is not": (
        "mov.u32 %r2, 15;\n  bar.sync %r2, 64;", "mov.u32 %r2, 15", "mov.u32 %r2, 16", 64,
        "barrier",
    ),
    "disagreement about who comes": (
        "setp.lt.u32 %p0, %r0, 32;\n  selp.b32 %r2, 64, 64, %p0;\n  bar.sync 1, %r2;",
        "64, 64, %p0", "64, 96, %p0", 96, "barrier",
    ),
}  # fmt: skip


def launch(body: str, threads: int, schedule: str) -> list[int]:
    module = ptxsim.Module(HEADER + KERNEL.format(body=body))
    assert not module.unsupported, module.unsupported
    out = torch.full((threads,), -1, dtype=torch.int32)
    source = torch.zeros(1024, dtype=torch.int32)
    module.launch("kernel", 1, threads, [source, Output(out)], schedule=schedule)
    return out.tolist()


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
@pytest.mark.parametrize("name", CASES)
def test_found_with_the_mistake_and_silent_without(name: str, schedule: str) -> None:
    body, right, wrong, threads, kind = CASES[name]
    assert right in body
    if name != "disagreement about who comes":
        launch(body, threads, schedule)
    else:
        launch(body, 64, schedule)
    with pytest.raises(CheckError) as caught:
        launch(body.replace(right, wrong), threads, schedule)
    assert kind in {report.kind for report in caught.value.reports}, str(caught.value)


def test_a_copy_by_what_is_no_tensor_map() -> None:
    """Its control is every tensor copy of test_hopper.py."""
    with pytest.raises(CheckError) as caught:
        launch(TENSOR, 32, "forward")
    assert {report.kind for report in caught.value.reports} == {"tensor map"}


LIBRARY = """
__global__ void __launch_bounds__(64) fill(int* x) { x[threadIdx.x] = 1; }
extern "C" int run(int* x, int threads) {
  fill<<<1, threads>>>(x);
  return static_cast<int>(cudaGetLastError());
}
"""


def test_a_launch_that_a_driver_would_refuse(tmp_path: Path) -> None:
    if ptxsim.find_nvcc() is None:
        pytest.skip("no nvcc found")
    (tmp_path / "fill.cu").write_text(LIBRARY)
    library = ptxsim.compile_library(tmp_path / "fill.cu", "sm_80", tmp_path / "libfill.so")
    x = torch.zeros(128, dtype=torch.int32)
    address = ctypes.c_void_p(x.data_ptr())
    with simulated_gpu(capability=(8, 0)) as gpu:
        gpu.run(library.run, address, 64, memory=[x])
        assert x.sum() == 64
        with pytest.raises(CheckError) as caught:
            gpu.run(library.run, address, 128, memory=[x])
    assert {report.kind for report in caught.value.reports} == {"launch"}


def test_every_kind_of_report_is_provoked_by_a_test() -> None:
    """The kinds that the manual lists, each named by a test that demands it."""
    manual = (ROOT / "docs" / "ptxsim.md").read_text()
    table = manual.split("| report | means |")[1].split("\n\n")[0]
    kinds = {
        kind for row in re.findall(r"^\| (`[^|]*) \|", table, re.M) for kind in row.split("`")[1::2]
    }
    assert len(kinds) > 20
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert {
        kind for kind in kinds if f'"{kind}"' not in tests and f'="{kind}"' not in tests
    } == set()
