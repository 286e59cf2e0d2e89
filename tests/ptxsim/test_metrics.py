"""What is counted without a clock, on accesses whose counts are known; and unknown instructions."""

import pytest
import torch

from mimo_native.testing import ptxsim
from mimo_native.testing.ptxsim import CheckError, Stats

from .snippet import HEADER

STRIDED = """
.visible .entry kernel(.param .u64 p_in, .param .u32 p_stride, .param .u32 p_odd)
{{
  .reg .pred %p<2>;
  .reg .b32 %r<8>, %tile;
  .reg .b64 %rd<4>;
  .shared .align 16 .b8 tile[4096];
  mov.u32 %r0, %tid.x;
  mov.u32 %tile, tile;
  ld.param.u64 %rd0, [p_in];
  ld.param.u32 %r1, [p_stride];
  mul.lo.u32 %r2, %r0, %r1;
  cvt.u64.u32 %rd1, %r2;
  add.u64 %rd0, %rd0, %rd1;
  ld.global.b32 %r3, [%rd0];
  add.u32 %r4, %tile, %r2;
  st.shared.b32 [%r4], %r3;
  ld.param.u32 %r5, [p_odd];
  setp.ne.u32 %p0, %r5, 0;
  {extra}
  ret;
}}"""


def launch(stride: int, extra: str = "", odd: int = 0) -> Stats:
    module = ptxsim.Module(HEADER + STRIDED.format(extra=extra))
    x = torch.zeros(1024, dtype=torch.int32)
    return module.launch("kernel", 1, 32, [x, stride, odd])


@pytest.mark.parametrize(
    ("stride", "sectors", "passes"), [(0, 1, 1), (4, 4, 1), (8, 8, 2), (32, 32, 8), (128, 32, 32)]
)
def test_sectors_and_bank_conflicts(stride: int, sectors: int, passes: int) -> None:
    stats = launch(stride)
    assert stats.global_sectors == sectors
    assert stats.global_bytes == 128
    assert stats.bank_conflicts == passes - 1


def test_instructions_are_counted_by_opcode_and_lane() -> None:
    stats = launch(
        4, "@%p0 add.u32 %r5, %r5, 1;\n  setp.lt.u32 %p1, %r0, 5;\n  @%p1 bra end;\nend:"
    )
    assert stats.opcodes["ld.global.b32"] == 1
    assert stats.opcodes["ld.param.u32"] == 2
    by_opcode = {i.opcode: i for i in stats.instructions}
    assert by_opcode["bra"].lanes == 5
    assert stats.warp_instructions == sum(stats.opcodes.values())


def test_a_line_that_is_not_reached_counts_nothing() -> None:
    stats = launch(4, "bra end;\n  add.u64 %rd2, %rd0, 1;\nend:")
    (skipped,) = [i for i in stats.instructions if i.opcode == "add.u64" and i.warps == 0]
    assert skipped.lanes == 0


def test_an_unknown_instruction_is_listed_and_stops_who_reaches_it() -> None:
    extra = "@%p0 bra end;\n  frobnicate.b32 %r5, %r5;\nend:"
    module = ptxsim.Module(HEADER + STRIDED.format(extra=extra))
    assert module.unsupported == {"frobnicate.b32": 1}
    launch(4, extra, odd=1)
    with pytest.raises(CheckError, match="trap"):
        launch(4, extra, odd=0)
