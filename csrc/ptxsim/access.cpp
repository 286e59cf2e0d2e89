#include "ptxsim/access.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstring>

#include "ptxsim/launch.h"

namespace ptxsim {
namespace {

u64 reserve_window() {
  void* pages =
      mmap(nullptr, kWindowBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  return reinterpret_cast<u64>(pages);
}

u8* scratch() {
  alignas(16) thread_local u8 bytes[256];
  std::memset(bytes, 0xff, sizeof bytes);
  return bytes;
}

std::string hex(u64 value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const char* verb(Intent intent) {
  return intent.write ? (intent.read ? "atomic operation on " : "write to ") : "read of ";
}

void report_misaligned(RunningWarp& w, u32 lane, const char* space, u64 address, u32 bytes,
                       Intent intent) {
  w.block->launch().report(
      w, lane, "misaligned",
      verb(intent) + std::to_string(bytes) + " bytes of " + space + " memory at " + hex(address));
}

// One granule of shared memory; `mask`: the bytes in it.
void check_shared_granule(RunningWarp& w, u32 lane, Block& block, u32 offset, u32 mask,
                          Intent intent, u32 agent) {
  Launch& launch = w.block->launch();
  GranuleState& state = block.shared.state(offset);
  const u32 base = offset / kGranule * kGranule;
  if (launch.options.check_memory) {
    if (const u32 wrong = mask & ~u32{state.valid}) {
      launch.report(w, lane, "out of bounds",
                    std::string(verb(intent)) + "shared memory at " +
                        hex(base + static_cast<u32>(__builtin_ctz(wrong))) +
                        ", which belongs to no variable");
      return;
    }
    if (const u32 wrong = mask & state.landing)
      launch.report(w, lane, "in flight",
                    std::string(verb(intent)) + "shared memory at " +
                        hex(base + static_cast<u32>(__builtin_ctz(wrong))) +
                        " while an asynchronous copy into it is under way");
    else if (const u32 unset = intent.read ? mask & ~u32{state.initialised} : 0)
      launch.report(w, lane, "uninitialised",
                    std::string(verb(intent)) + "shared memory at " +
                        hex(base + static_cast<u32>(__builtin_ctz(unset))) +
                        ", which was never written");
    if (intent.write) state.initialised |= static_cast<u16>(mask);
  }
  if (launch.options.check_races)
    check_race(block.shared.line(offset), {mask, lane, intent.write, intent.strong}, w, agent,
               "shared", base);
}

void check_global_granule(RunningWarp& w, u32 lane, const Allocation& a, u64 address, u32 bytes,
                          Intent intent, u32 agent) {
  const u32 first = static_cast<u32>(address % kGranule);
  const u32 mask = ((1u << bytes) - 1) << first;
  const std::unique_lock lock = w.block->launch().lock_shadow(address);
  check_race(*a.shadow_line(address), {mask, lane, intent.write, intent.strong}, w, agent, "global",
             address - first);
}

Allocation* find_allocation(RunningWarp& w, u64 address) {
  Cluster& cluster = *w.block->cluster;
  Allocation* a = cluster.last_allocation;
  if (a && a->begin <= address && address < a->end) return a;
  a = w.block->launch().memory.find(address);
  if (a) cluster.last_allocation = a;
  return a;
}

// The checks on a range that do not depend on granules.
Allocation* checked_allocation(RunningWarp& w, u32 lane, u64 address, u64 bytes, Intent intent) {
  Launch& launch = w.block->launch();
  Allocation* a = find_allocation(w, address);
  if (!a || address + bytes > a->end) {
    const u64 wrong = a ? a->end : address;
    launch.report(w, lane, "out of bounds",
                  verb(intent) + std::to_string(bytes) + " bytes of global memory at " +
                      hex(address) + ", " + launch.memory.describe(wrong));
    return nullptr;
  }
  if (intent.write && !a->writable) {
    launch.report(w, lane, "read-only",
                  std::string(verb(intent)) + a->name + ", which a kernel may only read");
    return nullptr;
  }
  if (a->tracks_initialised && launch.options.check_memory) {
    if (intent.read && !a->is_initialised(address, static_cast<u32>(bytes)))
      launch.report(w, lane, "uninitialised",
                    std::string(verb(intent)) + a->name + " at byte " +
                        std::to_string(address - a->begin) + ", which was never written");
    if (intent.write) a->set_initialised(address, static_cast<u32>(bytes));
  }
  return a;
}

}  // namespace

u64 shared_window() {
  static const u64 window = reserve_window();
  return window;
}

u64 local_window() {
  static const u64 window = reserve_window();
  return window;
}

Block* owner_of(Block& block, u32 address) {
  const u32 code = address >> kRankShift;
  if (code == 0) return &block;
  return code <= block.cluster->blocks.size() ? block.cluster->blocks[code - 1].get() : nullptr;
}

u8* shared_access(RunningWarp& w, u32 lane, u32 address, u32 bytes, Intent intent) {
  Launch& launch = w.block->launch();
  Block* block = owner_of(*w.block, address);
  const u32 offset = offset_of(address);
  if (!block || offset + bytes > block->shared.size()) {
    launch.report(w, lane, "out of bounds",
                  verb(intent) + std::to_string(bytes) + " bytes of shared memory at " +
                      hex(address) + ", the block has " + std::to_string(w.block->shared.size()));
    return scratch();
  }
  if (offset % bytes != 0)
    report_misaligned(w, lane, "shared", address, bytes, intent);
  else if (launch.options.check_memory || launch.options.check_races)
    check_shared_granule(w, lane, *block, offset, ((1u << bytes) - 1) << (offset % kGranule),
                         intent, w.agent);
  return block->shared.data() + offset;
}

u8* global_access(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent) {
  Launch& launch = w.block->launch();
  Allocation* a = checked_allocation(w, lane, address, bytes, intent);
  if (!a) return scratch();
  if (address % bytes != 0)
    report_misaligned(w, lane, "global", address, bytes, intent);
  else if (launch.options.check_races)
    check_global_granule(w, lane, *a, address, bytes, intent, w.agent);
  return reinterpret_cast<u8*>(address);
}

u8* local_access(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent) {
  Launch& launch = w.block->launch();
  const u64 size = launch.program.local_bytes;
  if (address + bytes > size) {
    launch.report(w, lane, "out of bounds",
                  verb(intent) + std::to_string(bytes) + " bytes of local memory at " +
                      hex(address) + ", the thread has " + std::to_string(size));
    return scratch();
  }
  if (address % bytes != 0) report_misaligned(w, lane, "local", address, bytes, intent);
  return w.local + lane * size + address;
}

u8* generic_access(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent) {
  if (address - shared_window() < kWindowBytes)
    return shared_access(w, lane, static_cast<u32>(address - shared_window()), bytes, intent);
  if (address - local_window() < kWindowBytes)
    return local_access(w, lane, address - local_window(), bytes, intent);
  return global_access(w, lane, address, bytes, intent);
}

bool check_shared_range(RunningWarp& w, u32 lane, Block& block, u32 offset, u32 bytes,
                        Intent intent, u32 agent) {
  if (offset + bytes > block.shared.size()) {
    w.block->launch().report(w, lane, "out of bounds",
                             verb(intent) + std::to_string(bytes) + " bytes of shared memory at " +
                                 hex(offset) + ", the block has " +
                                 std::to_string(block.shared.size()));
    return false;
  }
  for (u32 at = offset; at < offset + bytes;) {
    const u32 first = at % kGranule;
    const u32 count = std::min(kGranule - first, offset + bytes - at);
    check_shared_granule(w, lane, block, at, ((1u << count) - 1) << first, intent, agent);
    at += count;
  }
  return true;
}

bool check_global_range(RunningWarp& w, u32 lane, u64 address, u64 bytes, Intent intent,
                        u32 agent) {
  Allocation* a = checked_allocation(w, lane, address, bytes, intent);
  if (!a) return false;
  if (!w.block->launch().options.check_races) return true;
  for (u64 at = address; at < address + bytes;) {
    const u64 count = std::min<u64>(kGranule - at % kGranule, address + bytes - at);
    check_global_granule(w, lane, *a, at, static_cast<u32>(count), intent, agent);
    at += count;
  }
  return true;
}

}  // namespace ptxsim
