#include "ptxsim/schedule.h"

#include <algorithm>

#include "ptxsim/launch.h"

namespace ptxsim {
namespace {

constexpr u32 kPolls = 4096;       // a block that polls so often makes room for others
constexpr u64 kSlice = 1 << 16;    // of one warp, in the orderly schedules
constexpr u32 kRandomSlice = 300;  // at most, in the random one

bool pass(Cluster& cluster) {
  bool progress = false;
  const Schedule schedule = cluster.launch->options.schedule;
  std::vector<std::unique_ptr<Block>>& blocks = cluster.blocks;
  const size_t per_block = blocks[0]->warps.size();
  const size_t warps = blocks.size() * per_block;
  const auto run = [&](size_t i, u64 budget) {
    progress |= run_warp(blocks[i / per_block]->warps[i % per_block], budget);
  };
  if (schedule == Schedule::forward) {
    for (size_t i = 0; i < warps; ++i) run(i, kSlice);
  } else if (schedule == Schedule::reverse) {
    for (size_t i = warps; i-- > 0;) run(i, kSlice);
  } else {
    for (size_t i = 0; i < warps; ++i)
      run(cluster.random.below(static_cast<u32>(warps)), 1 + cluster.random.below(kRandomSlice));
    if (!progress)
      for (size_t i = 0; i < warps; ++i) run(i, kRandomSlice);
  }
  return progress;
}

// Asynchronous operations happen late: at random, or when nothing else can.
bool land(Cluster& cluster, bool progress) {
  if (cluster.async.empty()) return false;
  if (progress && cluster.random.below(4) != 0) return false;
  const size_t i = cluster.random.below(static_cast<u32>(cluster.async.size()));
  const AsyncOperation operation = std::move(cluster.async[i]);
  cluster.async.erase(cluster.async.begin() + static_cast<std::ptrdiff_t>(i));
  operation.run();
  return true;
}

void wake(Cluster& cluster) {
  for (const auto& block : cluster.blocks)
    for (RunningWarp& w : block->warps)
      for (Group& g : w.groups)
        if (g.state == Group::State::waiting) g.state = Group::State::ready;
}

const char* describe(const Group& g) {
  switch (g.state) {
    case Group::State::at_barrier: return "wait at the block barrier of ";
    case Group::State::at_warp_sync: return "wait for the other lanes at ";
    case Group::State::waiting: return "wait for a phase at ";
    case Group::State::ready: return "run at ";
  }
  return "";
}

void report_stuck(Cluster& cluster, const char* kind, const std::string& opening) {
  std::string message = opening;
  RunningWarp* first = nullptr;
  int listed = 0;
  for (const auto& block : cluster.blocks)
    for (RunningWarp& w : block->warps)
      for (const Group& g : w.groups) {
        if (!first) {
          first = &w;
          first->pc = g.pc;
        }
        if (++listed > 16) continue;
        char lanes[96];
        std::snprintf(lanes, sizeof lanes, "\n  block %llu, warp %u, lanes %08x ",
                      static_cast<unsigned long long>(block->linear), w.index, g.mask);
        message += lanes + std::string(describe(g)) + cluster.launch->place(g.pc);
      }
  if (listed > 16) message += "\n  and " + std::to_string(listed - 16) + " more groups";
  if (first)
    cluster.launch->report(*first, static_cast<u32>(__builtin_ctz(first->groups[0].mask)), kind,
                           message);
}

}  // namespace

Progress run_cluster(Cluster& cluster, u64 budget) {
  const u64 end = cluster.instructions + budget;
  cluster.polls = 0;
  while (cluster.live_threads() > 0 && !cluster.killed) {
    if (cluster.launch->stopped) return Progress::stuck;
    bool progress = pass(cluster);
    progress |= land(cluster, progress);
    if (cluster.woke) {
      cluster.woke = false;
      wake(cluster);
      progress = true;
    }
    if (cluster.killed) break;
    if (!progress && cluster.live_threads() > 0) {
      report_stuck(cluster, "deadlock", "no thread can go on:");
      return Progress::stuck;
    }
    if (cluster.instructions > cluster.launch->options.instruction_limit) {
      report_stuck(
          cluster, "hang",
          "still running after " + std::to_string(cluster.instructions) + " instructions:");
      return Progress::stuck;
    }
    if (cluster.instructions > end || cluster.polls > kPolls) return Progress::more;
  }
  if (cluster.killed) return Progress::stuck;
  if (!cluster.async.empty()) {
    RunningWarp& w = cluster.blocks[0]->warps[0];
    cluster.launch->report(w, 0, "in flight at exit",
                           std::to_string(cluster.async.size()) +
                               " asynchronous operations are under way when the last thread exits");
    while (land(cluster, false)) continue;
  }
  return Progress::finished;
}

}  // namespace ptxsim
