// The last accesses to every 16 bytes of memory, from which races are found.
#pragma once

#include "ptxsim/types.h"

namespace ptxsim {

inline constexpr u32 kGranule = 16;
inline constexpr u32 kSeveralLanes = 32;  // several lanes of one warp touched a word

// One instruction's access by one warp: up to 16 bytes, and for each of their four words the lane.
struct Record {
  u64 time : 28, cluster : 26, agent : 10;
  u64 bytes : 16, lanes : 24, pc : 20, strong : 1, : 3;

  u32 lane(int word) const { return static_cast<u32>(lanes >> (6 * word)) & 63; }
  void set_lane(int word, u32 lane) {
    lanes = (lanes & ~(u64{63} << (6 * word))) | u64{lane} << (6 * word);
  }
};
static_assert(sizeof(Record) == 16);

// Two records of each kind: a third reader displaces one of them at random, so a race over more
// than a few granules is found all the same.
struct alignas(64) ShadowLine {
  Record write[2];
  Record read[2];
};

// An access about to be made. Atomic, volatile and relaxed accesses are strong: they do not race
// with each other.
struct Access {
  u32 bytes;  // mask within the granule
  u32 lane;
  bool write, strong;
};

struct RunningWarp;

// Compares with the line's records, reports a race to the warp's launch and enters the access.
// `where` starts the sentence, as in "shared memory at 0x40".
void check_race(ShadowLine& line, const Access& access, RunningWarp& warp, u32 agent,
                const char* space, u64 address);

}  // namespace ptxsim
