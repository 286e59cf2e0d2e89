// Who knows of whose memory accesses: vector clocks.
//
// An agent is a warp of a block, the block's engine of asynchronous copies, or the matrix unit of a
// warpgroup. All blocks of a cluster share
// one counter of time; every synchronisation advances it, and an access carries the time at which
// it was made. `Known` says up to which time an agent's accesses happened before.
//
// Lanes of a warp are ordered among themselves only by a warp barrier, so when some lanes release
// (an elected thread arrives at a barrier) the others' accesses count only up to the last one.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "ptxsim/types.h"

namespace ptxsim {

inline constexpr u32 kMaxWarps = 32;
inline constexpr u32 kCopyAgent = kMaxWarps;         // of each block
inline constexpr u32 kMatrixAgent = kCopyAgent + 1;  // of its first warpgroup
inline constexpr u32 kWarpgroup = 4;                 // warps
inline constexpr u32 kAgentsPerBlock = kMatrixAgent + kMaxWarps / kWarpgroup;

inline bool is_async(u32 agent) { return agent % kAgentsPerBlock >= kMaxWarps; }

struct Known {
  u32 all = 0;   // accesses of every lane up to this time
  u32 some = 0;  // accesses of `lanes` up to this time
  u32 lanes = 0;

  void join(const Known& other) {
    if (other.all > all) all = other.all;
    if (other.some > some) some = other.some;
    lanes |= other.lanes;
  }
};

// One entry per agent of the cluster, and the agents of other clusters that were heard of.
struct Clock {
  using Foreign = std::map<u32, std::vector<Known>>;  // by cluster
  std::vector<Known> agents;
  std::shared_ptr<const Foreign> foreign;

  void reset(size_t count) {
    agents.assign(count, Known{});
    foreign.reset();
  }
  void join(const Clock& other) {
    for (size_t i = 0; i < agents.size(); ++i) agents[i].join(other.agents[i]);
    join_foreign(other.foreign);
  }
  void join_foreign(const std::shared_ptr<const Foreign>& other);
};

}  // namespace ptxsim
