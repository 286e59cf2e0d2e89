#include "ptxsim/async.h"

#include <algorithm>

#include "ptxsim/launch.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {

u32 agent_of(const Block& block, u32 agent) { return block.rank * kAgentsPerBlock + agent; }

std::shared_ptr<RunningWarp> engine_for(RunningWarp& w, u32 lane, u32 agent) {
  auto engine = std::make_shared<RunningWarp>();
  engine->block = w.block;
  engine->index = w.index;
  engine->pc = w.pc;
  engine->live = w.live;
  engine->agent = agent_of(*w.block, agent);
  engine->proxy_fence = w.proxy_fence;
  release(w, 1u << lane, engine->clock);
  return engine;
}

void enqueue(RunningWarp& w, u32 lane, u32 group, std::function<void()> run) {
  w.block->cluster->async.push_back({&w, lane, group, std::move(run)});
}

void land_groups(RunningWarp& w, u32 lane, u32 group) {
  std::vector<AsyncOperation>& all = w.block->cluster->async;
  for (size_t i = 0; i < all.size();) {
    if (all[i].warp != &w || all[i].lane != lane || all[i].group == AsyncOperation::kNoGroup ||
        all[i].group >= group) {
      ++i;
      continue;
    }
    const AsyncOperation operation = std::move(all[i]);
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
    operation.run();
  }
}

void check_proxy(RunningWarp& issuer, u32 lane, Block& block, u32 offset, u32 bytes) {
  Cluster& cluster = *block.cluster;
  if (!cluster.launch->options.check_races) return;
  for (u32 at = offset / kGranule * kGranule; at < offset + bytes; at += kGranule)
    for (const Record& r : block.shared.line(at).write) {
      if (r.time <= cluster.base || r.bytes == 0 || is_async(static_cast<u32>(r.agent))) continue;
      const auto agent = static_cast<u32>(r.agent);
      const RunningWarp& writer =
          cluster.blocks[agent / kAgentsPerBlock]->warps[agent % kAgentsPerBlock];
      // A fence advances time, so an access with the fence's time came before it.
      if (r.time <= writer.proxy_fence || r.time <= issuer.proxy_fence) continue;
      cluster.launch->report(issuer, lane, "proxy",
                             "reads shared memory that was written at " +
                                 cluster.launch->place(static_cast<u32>(r.pc)) +
                                 " with no fence.proxy.async since");
      return;
    }
}

void mark_range(Block& block, u32 offset, u32 bytes, bool landing) {
  for (u32 at = offset; at < offset + bytes;) {
    const u32 first = at % kGranule, count = std::min(kGranule - first, offset + bytes - at);
    const u16 mask = static_cast<u16>(((1u << count) - 1) << first);
    GranuleState& state = block.shared.state(at);
    state.landing = static_cast<u16>(landing ? state.landing | mask : state.landing & ~mask);
    at += count;
  }
}

}  // namespace ptxsim
