// Parallel loops over jobs. OpenMP, with the runtime torch has loaded and the thread count torch
// has set. Everything is in an anonymous namespace because kernel sources are compiled once per ISA
// level (no weak symbols).
#pragma once

#include <cstdint>

namespace mn {
namespace {

// Calls f(job) for job in [0, count). Jobs are handed out dynamically, so a preempted thread does
// not stall the other; each job has fixed content, so results do not depend on who runs it. f must
// not throw.
template <class F>
inline void parallel_for(int64_t count, const F& f) {
  if (count <= 1) {
    if (count == 1) f(0);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t job = 0; job < count; ++job) f(job);
}

// As parallel_for, but on the calling thread when `work` (any unit) is below `grain`: a region
// costs microseconds.
template <class F>
inline void parallel_for(int64_t count, int64_t work, int64_t grain, const F& f) {
  if (work >= grain) return parallel_for(count, f);
  for (int64_t job = 0; job < count; ++job) f(job);
}

}  // namespace
}  // namespace mn
