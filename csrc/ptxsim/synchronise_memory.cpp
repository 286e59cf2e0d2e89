// Synchronisation through memory: fences, and strong accesses to flags and counters.
#include "ptxsim/access.h"
#include "ptxsim/launch.h"
#include "ptxsim/op_memory.h"
#include "ptxsim/synchronise.h"

namespace ptxsim {
namespace {

// The block in whose shared memory an address lies, and the offset there; null: global memory.
std::pair<Block*, u32> shared_place(RunningWarp& w, u64 address) {
  if (address - shared_window() < kWindowBytes) address -= shared_window();
  if (address >> 32 != 0) return {nullptr, 0};
  return {owner_of(*w.block, static_cast<u32>(address)), offset_of(static_cast<u32>(address))};
}

}  // namespace

void fence(RunningWarp& w, u32 lanes) {
  auto known = std::make_shared<Clock>();
  release(w, lanes, *known);
  w.fence = std::move(known);
}

void publish(RunningWarp& w, u32 lane, u64 address, u8 flags) {
  if (!w.block->launch().options.check_races) return;
  if (flags & kReleases) fence(w, 1u << lane);
  if (!w.fence) return;
  if (const auto [owner, offset] = shared_place(w, address); owner) {
    Clock& clock = owner->published[offset];
    if (clock.agents.empty()) clock.reset(w.clock.agents.size());
    clock.join(*w.fence);
    return;
  }
  // For other blocks: this cluster's agents, and what it heard of further ones.
  Clock outside;
  outside.join_foreign(w.fence->foreign);
  auto own = std::make_shared<Clock::Foreign>();
  (*own)[w.block->cluster->index] = w.fence->agents;
  outside.join_foreign(own);
  Launch::Published& published = w.block->launch().published;
  const std::lock_guard lock(published.mutex);
  auto& entry = published.clocks[address];
  outside.join_foreign(entry);
  entry = outside.foreign;
  published.any = true;
}

// A strong read acquires even without the fence that the memory model asks for: programs that leave
// it out are common, and the writer's side is where the mistakes are.
void observe(RunningWarp& w, u32, u64 address, u8) {
  ++w.block->cluster->polls;
  if (!w.block->launch().options.check_races) return;
  if (const auto [owner, offset] = shared_place(w, address); owner) {
    const auto it = owner->published.find(offset);
    if (it != owner->published.end()) acquire(w, it->second);
    return;
  }
  if (!w.block->launch().published.any) return;
  std::shared_ptr<const Clock::Foreign> heard;
  {
    Launch::Published& published = w.block->launch().published;
    const std::lock_guard lock(published.mutex);
    const auto it = published.clocks.find(address);
    if (it == published.clocks.end()) return;
    heard = it->second;
  }
  const auto own = heard->find(w.block->cluster->index);
  if (own != heard->end())
    for (size_t i = 0; i < w.clock.agents.size(); ++i) w.clock.agents[i].join(own->second[i]);
  w.clock.join_foreign(heard);
}

}  // namespace ptxsim
