// Parallel loops over jobs. OpenMP, with the runtime torch has loaded and the thread count torch
// has set. Everything is in an anonymous namespace because kernel sources are compiled once per ISA
// level (no weak symbols).
#pragma once

#include <omp.h>

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

// The threads of a parallel region, or the caller alone: then nothing is asked of the runtime,
// whose barriers enter the kernel even where nobody waits.
struct Team {
  bool alone;

  int thread() const { return alone ? 0 : omp_get_thread_num(); }
  // As parallel_for; all threads of the team go on when every job is done.
  template <class F>
  void share(int64_t count, const F& f) const {
    if (alone) {
      for (int64_t job = 0; job < count; ++job) f(job);
      return;
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < count; ++job) f(job);
  }
  // A region's last jobs.
  template <class F>
  void share_last(int64_t count, const F& f) const {
    if (alone) return share(count, f);
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < count; ++job) f(job);
  }
};

// Calls f(team) on each of `threads` threads, or on the caller alone when `work` is below `grain`.
template <class F>
inline void parallel_region(int threads, int64_t work, int64_t grain, const F& f) {
  if (threads == 1 || work < grain) return f(Team{true});
#pragma omp parallel num_threads(threads)
  f(Team{false});
}

}  // namespace
}  // namespace mn
