// cp.async.bulk without a tensor map, and the groups of bulk copies.
//
// A copy that reports to an mbarrier lands at a moment of the scheduler's choosing; one in a group
// at the latest when its thread waits.
#include <algorithm>
#include <cstring>

#include "ptxsim/access.h"
#include "ptxsim/async.h"
#include "ptxsim/launch.h"
#include "ptxsim/opcodes.h"

namespace ptxsim {
namespace {

constexpr u32 kAlign = 16;

void check_aligned(RunningWarp& w, u32 lane, u64 to, u64 from, u32 bytes) {
  if (to % kAlign || from % kAlign || bytes % kAlign)
    w.block->launch().report(w, lane, "misaligned",
                             "addresses and size of a bulk copy must be multiples of 16");
}

// list: to (shared), from (global, or shared if variant), bytes, barrier
void load(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const s32* list = w.lists + in.list;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const u32 to = reg<u32>(w, list[0])[lane], bytes = reg<u32>(w, list[2])[lane];
    const u32 barrier = reg<u32>(w, list[3])[lane];
    const u64 from = in.variant ? reg<u32>(w, list[1])[lane] : reg<u64>(w, list[1])[lane];
    check_aligned(w, lane, to, from, bytes);
    Block* block = owner_of(*w.block, to);
    const u32 offset = offset_of(to);
    auto engine = engine_for(w, lane, kCopyAgent);
    if (!block || !check_shared_range(*engine, lane, *block, offset, bytes, kWrite, engine->agent))
      continue;
    if (in.variant) check_proxy(w, lane, *w.block, static_cast<u32>(from), bytes);
    mark_range(*block, offset, bytes, true);
    std::memset(block->shared.data() + offset, 0xff, bytes);
    const bool within = in.variant != 0;
    enqueue(w, lane, AsyncOperation::kNoGroup, [=] {
      const bool valid =
          within ? check_shared_range(*engine, lane, *engine->block, static_cast<u32>(from), bytes,
                                      kRead, engine->agent)
                 : check_global_range(*engine, lane, from, bytes, kRead, engine->agent);
      mark_range(*block, offset, bytes, false);
      check_shared_range(*engine, lane, *block, offset, bytes, kWrite, engine->agent);
      const u8* bytes_from =
          within ? engine->block->shared.data() + from : reinterpret_cast<const u8*>(from);
      if (valid) std::memcpy(block->shared.data() + offset, bytes_from, bytes);
      if (MemoryBarrier* b = find_memory_barrier(*engine, lane, barrier))
        complete_transactions(*block->cluster, *b, bytes, engine->clock, engine->agent);
    });
  }
}

// list: to (global), from (shared), bytes
void store(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  const s32* list = w.lists + in.list;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const u64 to = reg<u64>(w, list[0])[lane];
    const u32 from = offset_of(reg<u32>(w, list[1])[lane]), bytes = reg<u32>(w, list[2])[lane];
    check_aligned(w, lane, to, from, bytes);
    auto engine = engine_for(w, lane, kCopyAgent);
    if (!check_shared_range(*engine, lane, *w.block, from, bytes, kRead, engine->agent)) continue;
    check_proxy(w, lane, *w.block, from, bytes);
    enqueue(w, lane, w.bulk_groups[lane], [=] {
      check_shared_range(*engine, lane, *engine->block, from, bytes, kRead, engine->agent);
      if (check_global_range(*engine, lane, to, bytes, kWrite, engine->agent))
        std::memcpy(reinterpret_cast<void*>(to), engine->block->shared.data() + from, bytes);
    });
  }
}

// imm: groups that may stay under way
void wait_group(Warp& warp, const Instruction& in, u32 mask) {
  RunningWarp& w = running(warp);
  Cluster& cluster = *w.block->cluster;
  for (u32 m = mask; m; m &= m - 1) {
    const u32 lane = static_cast<u32>(__builtin_ctz(m));
    const s64 bound = static_cast<s64>(w.bulk_groups[lane]) - in.imm;
    if (bound > 0) land_groups(w, lane, static_cast<u32>(bound));
  }
  Known& copies = w.clock.agents[agent_of(*w.block, kCopyAgent)];
  copies.all = std::max(copies.all, cluster.time);
  ++cluster.time;
}

}  // namespace

void decode_bulk(Decoder& d, const Statement& s) {
  Instruction in;
  if (s.has("commit_group")) {
    in.run = [](Warp& warp, const Instruction&, u32 mask) {
      for (u32 m = mask; m; m &= m - 1)
        ++running(warp).bulk_groups[static_cast<size_t>(__builtin_ctz(m))];
    };
    return d.emit(in);
  }
  if (s.has("wait_group")) {
    in.imm = d.immediate(s.operands[0]);
    in.run = wait_group;
    return d.emit(in);
  }
  if (s.has("prefetch")) return decode_hint(d, s);
  if (s.parts[1] == "reduce" || s.has("cp_mask")) d.unsupported();
  if (s.has("tensor")) return decode_tensor_copy(d, s);
  if (s.has("multicast::cluster")) d.unsupported();
  const bool stores = s.has("bulk_group");
  const bool within = !stores && !s.has("global");
  std::vector<s32> list = {d.address_value(s.operands[0], stores ? 8 : 4),
                           d.address_value(s.operands[1], stores || within ? 4 : 8),
                           d.read(s.operands[2], Type::b32)};
  if (!stores) list.push_back(d.address_value(s.operands[3], 4));
  in.list = d.list(list);
  in.variant = within;
  in.run = stores ? store : load;
  d.emit(in);
}

}  // namespace ptxsim
