// barrier.cluster: all threads of a cluster.
#include "ptxsim/launch.h"
#include "ptxsim/opcodes.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {
namespace {

void arrive(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  Cluster& cluster = *w.block->cluster;
  ClusterBarrier& b = cluster.barrier;
  const bool orders = in.variant == 0;
  if (orders) release(w, mask, b.clock);
  for (u32 m = mask; m; m &= m - 1)
    w.cluster_phase[static_cast<size_t>(__builtin_ctz(m))] = b.phase + 1;
  b.arrived += static_cast<u32>(__builtin_popcount(mask));
  recheck_cluster_barrier(cluster);
}

void wait(Warp& warp, const Instruction&, u32 mask) {
  RunningWarp& w = running(warp);
  const ClusterBarrier& b = w.block->cluster->barrier;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const u64 phase = w.cluster_phase[lane];
    if (phase == 0)
      w.block->launch().report(w, lane, "barrier", "waits at the cluster barrier without arriving");
    else if (b.phase < phase)
      w.blocked |= 1u << lane;
  }
  if (!(w.blocked & mask) && !b.done.agents.empty()) {
    acquire(w, b.done);
    sync_warp(w);
  }
}

}  // namespace

void recheck_cluster_barrier(Cluster& cluster) {
  ClusterBarrier& b = cluster.barrier;
  if (b.arrived == 0 || b.arrived < cluster.live_threads()) return;
  b.arrived = 0;
  ++b.phase;
  if (!b.clock.agents.empty()) {
    b.done = b.clock;
    b.clock.reset(b.clock.agents.size());
  }
  cluster.woke = true;
}

void decode_cluster_barrier(Decoder& d, const Statement& s) {
  Instruction in;
  in.flow = s.has("wait") ? Flow::wait : Flow::effect;
  in.variant = s.has("relaxed");
  in.run = s.has("wait") ? wait : arrive;
  d.emit(in);
}

}  // namespace ptxsim
