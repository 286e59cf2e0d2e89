// A thread block in execution: plain data, so that any number of them can be alive at once.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "ptxsim/clock.h"
#include "ptxsim/machine.h"
#include "ptxsim/memory.h"
#include "ptxsim/metrics.h"
#include "ptxsim/program.h"
#include "ptxsim/shared_memory.h"

namespace ptxsim {

struct Block;
struct Cluster;
class Launch;

struct LaunchShape {
  Dim3 grid, block, cluster;
  u32 dynamic_shared = 0;
  u32 multiprocessors = 4;
};

// Lanes of a warp that are at the same instruction.
struct Group {
  enum class State : u8 { ready, at_barrier, at_warp_sync, waiting };
  u32 pc = 0;
  u32 mask = 0;
  State state = State::ready;
  u8 barrier = 0;            // which, while at_barrier
  u32 members = 0;           // member mask, while at_warp_sync
  std::vector<u32> returns;  // return addresses of the calls it is in
};

// cp.async: lands when its thread waits for it, at the latest possible moment.
struct PendingCopy {
  u32 to;    // shared memory offset
  u64 from;  // global address
  u8 bytes, source_bytes, lane;
  u32 group;  // of the lane
  u32 pc;
};

// wgmma instructions of one group that are under way.
struct MatrixGroup {
  struct Registers {
    s32 offset;
    bool accumulator;
  };
  std::vector<Registers> registers;
  u32 time = 0;  // of the last one
};

// What wgmma does, or did before a wait, with a register. `touched`: others used it since, and no
// wgmma.fence orders the next wgmma after that.
enum MatrixUse : u8 {
  kAccumulates = 1,
  kReads = 2,
  kAccumulated = 4,
  kWasRead = 8,
  kTouched = 16,
};

struct RunningWarp : Warp {
  Block* block = nullptr;
  u32 index = 0;
  u32 pc = 0;             // of the instruction in execution
  bool yields = false;    // set by a handler: let others run
  bool collides = false;  // set by a check: lanes of this instruction write to one place
  std::vector<Group> groups;

  Clock clock;     // what this warp knows
  u32 synced = 0;  // time of the last warp barrier: lanes are ordered up to here
  std::shared_ptr<const Clock> fence;  // what it knew at its last memory fence
  u32 agent = 0;

  std::vector<PendingCopy> copies;
  std::array<u32, kLanes> copy_groups{};  // committed so far

  std::array<u32, kLanes> bulk_groups{};    // of cp.async.bulk: committed so far
  std::array<u64, kLanes> cluster_phase{};  // of the cluster barrier, at the arrival
  u32 proxy_fence = 0;                      // time of the last fence.proxy.async
  MatrixGroup matrix_open;
  std::deque<MatrixGroup> matrix_groups;
  std::vector<u8> in_flight;   // MatrixUse by register offset / 64; empty: none
  bool matrix_fenced = false;  // a wgmma.fence was executed

  u8* local = nullptr;  // local memory: local_bytes for each lane
};

struct Barrier {
  u32 arrived = 0;   // threads
  u32 expected = 0;  // 0: all threads that have not exited
  u32 holding = 0;   // threads whose predicate holds (barrier.red)
  Clock clock;
};

// An mbarrier object, by its shared memory offset.
struct MemoryBarrier {
  s32 count = 0;
  s32 pending = 0;       // arrivals missing in this phase
  s64 transactions = 0;  // bytes missing
  u64 phase = 0;
  Clock clock;  // of this phase's arrivals
  Clock done;   // of the completed phases
};

// The barrier of all threads of a cluster.
struct ClusterBarrier {
  u32 arrived = 0;
  u64 phase = 0;
  Clock clock, done;
};

// What an asynchronous engine still has to do, for a thread that may wait for a group of such.
struct AsyncOperation {
  static constexpr u32 kNoGroup = ~0u;
  const void* warp = nullptr;  // of the thread
  u32 lane = 0, group = kNoGroup;
  std::function<void()> run;
};

struct Block {
  Cluster* cluster = nullptr;
  u32 rank = 0;  // in the cluster
  Dim3 id;
  u64 linear = 0;
  u32 live_threads = 0;
  SharedMemory shared;
  std::vector<RunningWarp> warps;
  std::array<Barrier, 16> barriers;
  std::unordered_map<u32, MemoryBarrier> memory_barriers;
  std::unique_ptr<LazyPages> registers, locals;
  // Strong accesses to shared memory that publish: what their last writer knew.
  std::unordered_map<u64, Clock> published;

  const LaunchShape& shape() const;
  Launch& launch() const;
};

// xorshift64: every cluster has its own, so a schedule depends on the seed and the block alone.
struct Random {
  u64 state = 1;
  u64 next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  u32 below(u32 n) { return static_cast<u32>(next() % n); }
};

struct Cluster {
  Launch* launch = nullptr;
  u32 index = 0;
  u32 time = 0;   // advances with every synchronisation
  u32 base = 0;   // before the launch
  u32 floor = 0;  // accesses of this cluster up to here happened before everything that follows
  bool killed = false;
  Random random;
  std::vector<std::unique_ptr<Block>> blocks;
  // What asynchronous engines still have to do; each happens at a moment of its own choosing.
  std::vector<AsyncOperation> async;
  ClusterBarrier barrier;
  u32 polls = 0;  // strong reads of global memory in this turn: perhaps a wait for another block
  bool woke = false;  // a barrier completed a phase: waiting groups look again

  Allocation* last_allocation = nullptr;  // most accesses go where the one before went
  Metrics* metrics = nullptr;             // of the worker that runs this cluster
  u64 instructions = 0;

  u32 live_threads() const {
    u32 threads = 0;
    for (const auto& block : blocks) threads += block->live_threads;
    return threads;
  }
};

void fill_special_registers(const Program& program, RunningWarp& warp);

inline RunningWarp& running(Warp& warp) { return static_cast<RunningWarp&>(warp); }

}  // namespace ptxsim
