// Asynchronous engines: what they do for a thread happens later, knowing what the thread knew.
#pragma once

#include "ptxsim/op_memory.h"

namespace ptxsim {

// Stands for the engine in checks: the clock of `lane` of `w` now, the instruction in execution.
// `agent`: kCopyAgent or kMatrixAgent + the warpgroup.
std::shared_ptr<RunningWarp> engine_for(RunningWarp& w, u32 lane, u32 agent);
u32 agent_of(const Block& block, u32 agent);

void enqueue(RunningWarp& w, u32 lane, u32 group, std::function<void()> run);
// The operations of a lane's groups before `group` take place now.
void land_groups(RunningWarp& w, u32 lane, u32 group);

// An engine reads shared memory through another proxy than ordinary stores write it: a store must
// be followed by fence.proxy.async of its own thread or of the one that starts the engine.
void check_proxy(RunningWarp& issuer, u32 lane, Block& block, u32 offset, u32 bytes);

// --- mbarrier objects (op_mbarrier.cpp) ---
// Null, and a report, where `address` holds none.
MemoryBarrier* find_memory_barrier(RunningWarp& w, u32 lane, u32 address);
// `bytes` of a copy have arrived; `known`: what its engine knows.
void complete_transactions(Cluster& cluster, MemoryBarrier& barrier, s64 bytes, const Clock& known,
                           u32 agent);

// Marks the bytes of a range as being copied into, or not; clears or sets their contents to NaN.
void mark_range(Block& block, u32 offset, u32 bytes, bool landing);

}  // namespace ptxsim
