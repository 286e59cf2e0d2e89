"""Bulk copies, mbarriers and cluster barriers in small kernels, each right and with a mistake."""

import pytest
import torch

from mimo_native.testing import ptxsim
from mimo_native.testing.ptxsim import CheckError, Output

from .snippet import HEADER

SCHEDULES = [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]

# 64 threads: thread 0 starts a copy of 256 bytes into shared memory, all read it, change it, and
# thread 0 stores it back.
BULK = """
.visible .entry kernel(.param .u64 p_in, .param .u64 p_out)
{
  .reg .pred %p<4>;
  .reg .b32 %r<8>, %bar, %tile;
  .reg .b64 %rd<4>;
  .shared .align 16 .b8 tile[256];
  .shared .align 8 .b64 bar;
  mov.u32 %r0, %tid.x;
  mov.u32 %tile, tile;
  mov.u32 %bar, bar;
  ld.param.u64 %rd0, [p_in];
  ld.param.u64 %rd1, [p_out];
  setp.ne.u32 %p0, %r0, 0;
  @%p0 bra initialised;
  mbarrier.init.shared::cta.b64 [%bar], 1;
  fence.mbarrier_init.release.cluster;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%tile], [%rd0], 256, [%bar];
initialised:
  bar.sync 0;
wait:
  mbarrier.try_wait.parity.shared::cta.b64 %p1, [%bar], 0;
  @!%p1 bra wait;
  shl.b32 %r1, %r0, 2;
  add.u32 %r1, %r1, %tile;
  ld.shared.b32 %r2, [%r1];
  add.u32 %r2, %r2, 1;
  st.shared.b32 [%r1], %r2;
  fence.proxy.async.shared::cta;
  bar.sync 0;
  @%p0 bra done;
  cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%tile], 256;
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
done:
  ret;
}"""

# Copies of each thread that report to an mbarrier; a wait by the token of the arrival.
REPORTED = """
.visible .entry kernel(.param .u64 p_in, .param .u64 p_out)
{
  .reg .pred %p<4>;
  .reg .b32 %r<8>, %bar, %tile;
  .reg .b64 %rd<6>;
  .shared .align 16 .b8 tile[256];
  .shared .align 8 .b64 bar;
  mov.u32 %r0, %tid.x;
  mov.u32 %tile, tile;
  mov.u32 %bar, bar;
  ld.param.u64 %rd0, [p_in];
  ld.param.u64 %rd1, [p_out];
  setp.ne.u32 %p0, %r0, 0;
  @%p0 bra initialised;
  mbarrier.init.shared::cta.b64 [%bar], 128;
initialised:
  bar.sync 0;
  shl.b32 %r1, %r0, 2;
  cvt.u64.u32 %rd2, %r1;
  add.u64 %rd3, %rd0, %rd2;
  add.u32 %r2, %tile, %r1;
  cp.async.ca.shared.global [%r2], [%rd3], 4;
  cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%bar];
  mbarrier.arrive.shared::cta.b64 %rd4, [%bar];
wait:
  mbarrier.test_wait.shared::cta.b64 %p1, [%bar], %rd4;
  @!%p1 bra wait;
  xor.b32 %r3, %r1, 252;
  add.u32 %r3, %r3, %tile;
  ld.shared.b32 %r4, [%r3];
  add.u64 %rd3, %rd1, %rd2;
  st.global.b32 [%rd3], %r4;
  ret;
}"""

CLUSTER = """
.visible .entry kernel(.param .u64 p_in, .param .u64 p_out)
{
  .reg .b32 %r<8>, %tile;
  .reg .b64 %rd<6>;
  .shared .align 16 .b8 tile[256];
  mov.u32 %r0, %tid.x;
  mov.u32 %tile, tile;
  ld.param.u64 %rd0, [p_in];
  ld.param.u64 %rd1, [p_out];
  shl.b32 %r1, %r0, 2;
  cvt.u64.u32 %rd2, %r1;
  add.u64 %rd3, %rd0, %rd2;
  ld.global.b32 %r2, [%rd3];
  add.u32 %r3, %tile, %r1;
  st.shared.b32 [%r3], %r2;
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  xor.b32 %r3, %r1, 252;
  add.u32 %r3, %r3, %tile;
  ld.shared.b32 %r4, [%r3];
  add.u64 %rd3, %rd1, %rd2;
  st.global.b32 [%rd3], %r4;
  ret;
}"""


def run(ptx: str, schedule: str, seed: int) -> torch.Tensor:
    module = ptxsim.Module(HEADER + ptx)
    assert not module.unsupported, module.unsupported
    x = torch.arange(64, dtype=torch.int32)
    out = torch.full_like(x, -1)
    module.launch(
        "kernel", 1, 64, [x, Output(out)],
        schedule=schedule, seed=seed, instruction_limit=1 << 20,
    )  # fmt: skip
    return out


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
def test_right_and_silent(schedule: str, seed: int) -> None:
    x = torch.arange(64)
    assert run(BULK, schedule, seed).tolist() == (x + 1).tolist()
    assert run(REPORTED, schedule, seed).tolist() == x.flip(0).tolist()
    assert run(CLUSTER, schedule, seed).tolist() == x.flip(0).tolist()


# kernel, what is replaced, by what, kinds of which one must be reported
MISTAKES = {
    "no wait for the copy": (
        BULK, "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%bar], 0;\n  @!%p1 bra wait;", "",
        {"in flight", "race", "in flight at exit"},
    ),
    "another parity": (
        BULK, "try_wait.parity.shared::cta.b64 %p1, [%bar], 0",
        "try_wait.parity.shared::cta.b64 %p1, [%bar], 1", {"in flight", "race"},
    ),
    "too many bytes": (BULK, "_, [%bar], 256", "_, [%bar], 272", {"deadlock"}),
    "bytes nobody expects": (
        BULK, "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar], 256",
        "mbarrier.arrive.shared::cta.b64 _, [%bar]", {"in flight", "race", "deadlock"},
    ),
    "an odd size": (BULK, "[%rd0], 256, [%bar]", "[%rd0], 248, [%bar]", {"misaligned"}),
    "no barrier object": (BULK, "mbarrier.init.shared::cta.b64 [%bar], 1;", "", {"no barrier"}),
    "no fence of proxies": (BULK, "fence.proxy.async.shared::cta;", "", {"proxy"}),
    "no barrier before the store": (
        BULK, "fence.proxy.async.shared::cta;\n  bar.sync 0;", "fence.proxy.async.shared::cta;",
        {"race"},
    ),
    "no wait for the store": (BULK, "cp.async.bulk.wait_group 0;", "", {"in flight at exit"}),
    "copies that nobody reports": (
        REPORTED, "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%bar];", "",
        {"deadlock", "hang", "in flight", "in flight at exit"},
    ),
    "a token of no phase": (
        REPORTED, "wait:\n", "  add.u64 %rd4, %rd4, 2;\nwait:\n", {"barrier phase"},
    ),
    "too many at once": (
        REPORTED, "mbarrier.arrive.shared::cta.b64 %rd4, [%bar];",
        "mbarrier.arrive.shared::cta.b64 %rd4, [%bar], 200;", {"barrier arrivals"},
    ),
    "no cluster barrier": (
        CLUSTER,
        "barrier.cluster.arrive.release.aligned;\n  barrier.cluster.wait.acquire.aligned;", "",
        {"race", "uninitialised"},
    ),
    "a cluster barrier without order": (
        CLUSTER, "barrier.cluster.arrive.release", "barrier.cluster.arrive.relaxed", {"race"},
    ),
    "a wait without an arrival": (
        CLUSTER, "barrier.cluster.arrive.release.aligned;", "", {"barrier"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("schedule", "seed"), SCHEDULES)
@pytest.mark.parametrize("name", MISTAKES)
def test_the_mistake_is_found(name: str, schedule: str, seed: int) -> None:
    ptx, old, new, kinds = MISTAKES[name]
    assert old in ptx
    with pytest.raises(CheckError) as caught:
        run(ptx.replace(old, new, 1), schedule, seed)
    assert {report.kind for report in caught.value.reports} & kinds, str(caught.value)


WARP = """
.visible .entry kernel(.param .u64 p_in, .param .u64 p_out)
{
  .reg .pred %p<2>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<4>;
  mov.u32 %r0, %tid.x;
  ld.param.u64 %rd0, [p_in];
  ld.param.u64 %rd1, [p_out];
  mul.wide.u32 %rd2, %r0, 4;
  add.u64 %rd0, %rd0, %rd2;
  add.u64 %rd1, %rd1, %rd2;
  ld.global.b32 %r1, [%rd0];
  redux.sync.add.s32 %r2, %r1, 0xffffffff;
  redux.sync.max.u32 %r3, %r1, 0xffffffff;
  elect.sync %r4|%p0, 0xffffffff;
  selp.b32 %r2, %r2, %r3, %p0;
  st.global.b32 [%rd1], %r2;
  ret;
}"""


def test_redux_and_elect() -> None:
    out = run(WARP, "random", 0)
    first, second = torch.arange(32), torch.arange(32, 64)
    assert out[[0, 32]].tolist() == [first.sum().item(), second.sum().item()]
    assert set(out[1:32].tolist()) == {31}
    assert set(out[33:].tolist()) == {63}
