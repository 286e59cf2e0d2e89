#include "ptxsim/metrics.h"

#include <algorithm>

#include "ptxsim/access.h"
#include "ptxsim/launch.h"
#include "ptxsim/op_memory.h"

namespace ptxsim {
namespace {

constexpr u32 kBanks = 32, kBankBytes = 4, kSector = 32;

// Passes over the banks that the lanes of `mask` need: different words in one bank take turns.
u32 passes(const u64 (&addresses)[kLanes], u32 mask, u32 width) {
  u64 words[kBanks][kLanes * 4];
  u32 count[kBanks] = {};
  u32 most = 0;
  const u32 words_per_lane = std::max(width / kBankBytes, 1u);
  for (u32 m = mask; m; m &= m - 1) {
    const u64 first = addresses[__builtin_ctz(m)] / kBankBytes;
    for (u64 word = first; word < first + words_per_lane; ++word) {
      const u32 bank = static_cast<u32>(word % kBanks);
      u64* seen = words[bank];
      if (std::find(seen, seen + count[bank], word) == seen + count[bank]) {
        seen[count[bank]++] = word;
        most = std::max(most, count[bank]);
      }
    }
  }
  return most;
}

}  // namespace

// Wide accesses are served by half and quarter warps, so that a pass moves at most 128 bytes.
void count_shared(Requests& metrics, const u64 (&addresses)[kLanes], u32 mask, u32 width) {
  const u32 parts = width >= 16 ? 4 : width >= 8 ? 2 : 1, lanes = kLanes / parts;
  for (u32 part = 0; part < parts; ++part) {
    const u32 here = parts == 1 ? mask : mask & (((1u << lanes) - 1) << (part * lanes));
    if (!here) continue;
    metrics.wavefronts += passes(addresses, here, width);
    ++metrics.ideal;
  }
  ++metrics.requests;
  metrics.bytes += u64{static_cast<u32>(__builtin_popcount(mask))} * width;
}

void count_global(Requests& metrics, const u64 (&addresses)[kLanes], u32 mask, u32 width) {
  u64 sectors[kLanes];
  u32 count = 0;
  for (u32 m = mask; m; m &= m - 1) {
    const u64 sector = addresses[__builtin_ctz(m)] / kSector;  // an aligned access lies in one
    if (std::find(sectors, sectors + count, sector) == sectors + count) sectors[count++] = sector;
  }
  ++metrics.requests;
  metrics.sectors += count;
  metrics.bytes += u64{static_cast<u32>(__builtin_popcount(mask))} * width;
}

void count_addresses(RunningWarp& w, const u64 (&addresses)[kLanes], u32 mask, u32 width,
                     bool shared) {
  if (!w.block->launch().options.metrics) return;
  Requests& metrics = w.block->cluster->metrics->requests[w.pc];
  const u64 first = addresses[__builtin_ctz(mask)];
  if (shared || first - shared_window() < kWindowBytes)
    return count_shared(metrics, addresses, mask, width);
  if (first - local_window() >= kWindowBytes) count_global(metrics, addresses, mask, width);
}

}  // namespace ptxsim
