#include "ptxsim/synchronise.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "ptxsim/launch.h"

namespace ptxsim {
namespace {

void write_result(RunningWarp& w, const Instruction& in, u32 mask, const Barrier& barrier) {
  const bool all = barrier.holding == barrier.arrived;
  switch (static_cast<BarrierKind>(in.variant)) {
    case BarrierKind::red_popc:
      for (u32 m = mask; m; m &= m - 1) reg<u32>(w, in.reg[2])[__builtin_ctz(m)] = barrier.holding;
      break;
    case BarrierKind::red_and:
    case BarrierKind::red_or: {
      const bool holds =
          in.variant == static_cast<u8>(BarrierKind::red_and) ? all : barrier.holding > 0;
      u32& p = predicate(w, in.reg[2]);
      p = (p & ~mask) | (holds ? mask : 0);
      break;
    }
    default: break;
  }
}

// Threads that fence before a barrier have fenced for the one that publishes behind it.
std::shared_ptr<const Clock> joined_fences(Block& block, u32 id) {
  std::shared_ptr<Clock> joined;
  std::shared_ptr<const Clock> first;
  for (const RunningWarp& w : block.warps) {
    const bool waits = std::any_of(w.groups.begin(), w.groups.end(), [&](const Group& g) {
      return g.state == Group::State::at_barrier && g.barrier == id;
    });
    if (!waits || !w.fence || w.fence == first) continue;
    if (!first) {
      first = w.fence;
      continue;
    }
    if (!joined) joined = std::make_shared<Clock>(*first);
    joined->join(*w.fence);
  }
  if (joined) return joined;
  return first;
}

// The aligned forms (bar, barrier..aligned) want all lanes of a warp at one instruction; those that
// have exited do not count.
void check_aligned(Block& block, u32 id) {
  Launch& launch = block.launch();
  for (RunningWarp& w : block.warps) {
    u32 waiting = 0, first = 0, pc = 0;
    bool together = true;
    for (const Group& g : w.groups) {
      if (g.state != Group::State::at_barrier || g.barrier != id) continue;
      if (waiting == 0) {
        first = static_cast<u32>(__builtin_ctz(g.mask));
        pc = g.pc;
      }
      together = together && g.pc == pc;
      waiting |= g.mask;
    }
    if (waiting == 0 || (together && (w.live & ~waiting) == 0)) continue;
    const std::string_view opcode = launch.program.opcodes[pc];
    if (!opcode.starts_with("bar.") && !opcode.ends_with(".aligned")) continue;
    const u32 running = std::exchange(w.pc, pc);
    launch.report(w, first, "inactive lane",
                  "a barrier for whole warps is passed while lanes of this warp are elsewhere");
    w.pc = running;
  }
}

void complete(Block& block, u32 id) {
  check_aligned(block, id);
  Barrier& barrier = block.barriers[id];
  Cluster& cluster = *block.cluster;
  const bool everybody = barrier.arrived >= block.live_threads && cluster.blocks.size() == 1;
  const std::vector<Instruction>& code = block.launch().program.code;
  const std::shared_ptr<const Clock> fences = joined_fences(block, id);
  for (RunningWarp& w : block.warps)
    for (Group& g : w.groups) {
      if (g.state != Group::State::at_barrier || g.barrier != id) continue;
      w.fence = fences;
      write_result(w, code[g.pc], g.mask, barrier);
      g.state = Group::State::ready;
      ++g.pc;
      w.synced = cluster.time;
      if (everybody) {  // the floor stands for the warps, not for the asynchronous engines
        w.clock.join_foreign(barrier.clock.foreign);
        for (u32 i = kCopyAgent; i < kAgentsPerBlock; ++i)
          w.clock.agents[i].join(barrier.clock.agents[i]);
      } else {
        acquire(w, barrier.clock);
      }
    }
  if (everybody) cluster.floor = cluster.time;
  ++cluster.time;
  barrier.arrived = barrier.expected = barrier.holding = 0;
  barrier.clock.reset(barrier.clock.agents.size());
}

}  // namespace

void release(const RunningWarp& w, u32 lanes, Clock& to) {
  Cluster& cluster = *w.block->cluster;
  if (to.agents.empty()) to.reset(w.clock.agents.size());
  to.join(w.clock);
  for (size_t i = 0; i < to.agents.size(); ++i)  // what a barrier of all threads has ordered
    if (!is_async(static_cast<u32>(i)))
      to.agents[i].all = std::max(to.agents[i].all, cluster.floor);
  Known own;
  own.all = (w.live & ~lanes) == 0 ? cluster.time : w.synced;
  own.some = cluster.time;
  own.lanes = lanes;
  to.agents[w.agent].join(own);
  ++cluster.time;
}

void sync_warp(RunningWarp& w) {
  w.synced = w.block->cluster->time;
  ++w.block->cluster->time;
}

void arrive_at_barrier(RunningWarp& w, size_t group, const Instruction& in, u32 lanes) {
  Block& block = *w.block;
  const u32 lane = static_cast<u32>(__builtin_ctz(lanes));
  const u32 id = in.reg[0] != kNoRegister ? reg<u32>(w, in.reg[0])[lane] : static_cast<u32>(in.imm);
  const u32 expected =
      in.reg[1] != kNoRegister ? reg<u32>(w, in.reg[1])[lane] : static_cast<u32>(in.imm2);
  if (id >= block.barriers.size()) {
    block.launch().report(w, lane, "barrier", "barrier " + std::to_string(id) + " of 16");
    ++w.groups[group].pc;
    return;
  }
  Barrier& barrier = block.barriers[id];
  if (barrier.arrived > 0 && barrier.expected != expected)
    block.launch().report(w, lane, "barrier",
                          "barrier " + std::to_string(id) + " is awaited with " +
                              std::to_string(expected) + " and with " +
                              std::to_string(barrier.expected) + " threads (0: all)");
  barrier.expected = expected;
  barrier.arrived += static_cast<u32>(__builtin_popcount(lanes));
  if (in.reg[3] != kNoRegister)
    barrier.holding += static_cast<u32>(__builtin_popcount(predicate(w, in.reg[3]) & lanes));
  release(w, lanes, barrier.clock);
  Group& g = w.groups[group];
  if (static_cast<BarrierKind>(in.variant) == BarrierKind::arrive) {
    ++g.pc;
  } else {
    g.state = Group::State::at_barrier;
    g.barrier = static_cast<u8>(id);
  }
  const u32 needed = expected ? expected : block.live_threads;
  if (barrier.arrived >= needed) complete(block, id);
}

void recheck_barriers(Block& block) {
  recheck_cluster_barrier(*block.cluster);
  for (u32 id = 0; id < block.barriers.size(); ++id) {
    const Barrier& b = block.barriers[id];
    if (b.arrived > 0 && b.expected == 0 && b.arrived >= block.live_threads) complete(block, id);
  }
}

}  // namespace ptxsim
