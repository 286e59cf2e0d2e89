// Steps that the instructions which access memory share.
#pragma once

#include "ptxsim/block.h"
#include "ptxsim/syntax.h"

namespace ptxsim {

enum MemoryFlags : u8 {
  kStrong = 1,  // volatile, relaxed, atomic
  kAcquires = 2,
  kReleases = 4,
  kCounted = 8,       // takes part in the metrics of memory requests
  kSharedSpace = 16,  // ... as an access to shared memory
};

Space space_of(const Statement& statement);
u8 memory_flags(const Statement& statement);

// A strong write publishes what the writer knew at its last fence (or knows now, if it releases); a
// strong read learns what was published at the address. synchronise_memory.cpp
void publish(RunningWarp& w, u32 lane, u64 address, u8 flags);
void observe(RunningWarp& w, u32 lane, u64 address, u8 flags);
void fence(RunningWarp& w, u32 lanes);

// Bank conflicts and sectors of one request of a warp (metrics.cpp): `width` bytes per lane.
void count_shared(Requests& metrics, const u64 (&addresses)[kLanes], u32 mask, u32 width);
void count_global(Requests& metrics, const u64 (&addresses)[kLanes], u32 mask, u32 width);
// Into the metrics of the instruction in execution; an address decides for itself which it is.
void count_addresses(RunningWarp& w, const u64 (&addresses)[kLanes], u32 mask, u32 width,
                     bool shared);

template <class Base>
void count_request(RunningWarp& w, const Instruction& in, u32 mask) {
  u64 addresses[kLanes] = {};
  for (u32 m = mask; m; m &= m - 1) {
    const int lane = __builtin_ctz(m);
    const u64 base = in.reg[0] == kNoRegister ? 0 : reg<Base>(w, in.reg[0])[lane];
    addresses[lane] = base + static_cast<u64>(in.imm);
  }
  count_addresses(w, addresses, mask, in.width, (in.variant & kSharedSpace) != 0);
}

}  // namespace ptxsim
