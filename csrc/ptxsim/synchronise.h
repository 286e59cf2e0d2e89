// Synchronisation events and what they do to the clocks.
#pragma once

#include "ptxsim/block.h"

namespace ptxsim {

// What `warp` publishes when the lanes of `lanes` release: its knowledge and their own accesses.
void release(const RunningWarp& warp, u32 lanes, Clock& to);
// ... and what it learns.
inline void acquire(RunningWarp& warp, const Clock& from) { warp.clock.join(from); }

// A warp barrier orders all accesses of the warp's lanes.
void sync_warp(RunningWarp& warp);

// Kinds of Flow::barrier, in Instruction::variant.
enum class BarrierKind : u8 { sync, arrive, red_popc, red_and, red_or };

// `lanes` of `group` arrive at the barrier instruction; releases it when it is complete.
void arrive_at_barrier(RunningWarp& warp, size_t group, const Instruction& in, u32 lanes);
// After threads have exited: barriers that wait for all threads may be complete now.
void recheck_barriers(Block& block);
void recheck_cluster_barrier(Cluster& cluster);  // op_cluster.cpp

}  // namespace ptxsim
