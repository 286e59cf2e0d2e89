// From an address to the bytes behind it, with every check on the way.
#pragma once

#include "ptxsim/block.h"

namespace ptxsim {

struct Intent {
  bool write = false;
  bool read = true;
  bool strong = false;  // atomic, volatile or relaxed: see Access
};

inline constexpr Intent kRead{false, true, false};
inline constexpr Intent kWrite{true, false, false};
inline constexpr Intent kAtomic{true, true, true};

// Generic addresses of shared and local memory lie in windows that hold nothing else. An address of
// shared memory is 32 bits: an offset, and above kRankShift 0 for the own block or 1 + the rank of
// another one of the cluster.
inline constexpr u32 kRankShift = 24;
inline constexpr u64 kWindowBytes = u64{1} << 29;
u64 shared_window();
u64 local_window();

// The block that a shared memory address means; null if there is none.
Block* owner_of(Block& block, u32 address);
inline u32 offset_of(u32 address) { return address & ((1u << kRankShift) - 1); }

// Each returns where `bytes` (at most 16, a power of two) of `lane` are. A violation is reported
// and leads to scratch memory, so that the block can go on.
u8* shared_access(RunningWarp& w, u32 lane, u32 address, u32 bytes, Intent intent);
u8* global_access(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent);
u8* local_access(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent);
u8* generic_access(RunningWarp& w, u32 lane, u64 address, u32 bytes, Intent intent);

// The same for the granules of a longer range, as an asynchronous copy makes them. False if the
// range is not valid (reported).
bool check_shared_range(RunningWarp& w, u32 lane, Block& block, u32 offset, u32 bytes,
                        Intent intent, u32 agent);
bool check_global_range(RunningWarp& w, u32 lane, u64 address, u64 bytes, Intent intent, u32 agent);

}  // namespace ptxsim
