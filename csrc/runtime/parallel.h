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

// Jobs of a region for work that waits for memory: each thread takes jobs that follow one another,
// so that it reads on where it stopped, and then what others have left, so that a preempted thread
// does not stall the rest. Made before the region.
class JobShares {
 public:
  JobShares(int64_t jobs, int threads) : jobs_(jobs), count_(threads < kMost ? threads : kMost) {
    for (int i = 0; i < count_; ++i) next_[i].job = begin(i);
  }

  // Every thread of the team calls it; nobody waits for the others' last jobs. f must not throw.
  template <class F>
  void run(int thread, const F& f) {
    for (int i = 0; i < count_; ++i) {
      const int share = (thread + i) % count_;
      const int64_t end = begin(share + 1);
      int64_t job;
      while ((job = __atomic_fetch_add(&next_[share].job, 1, __ATOMIC_RELAXED)) < end) f(job);
    }
  }

 private:
  static constexpr int kMost = 32;
  struct alignas(64) Cursor {
    int64_t job;
  };

  int64_t begin(int share) const { return jobs_ * share / count_; }

  int64_t jobs_;
  int count_;
  Cursor next_[kMost];
};

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
  template <class F>
  void share(JobShares& jobs, const F& f) const {
    jobs.run(thread(), f);
    if (alone) return;
#pragma omp barrier
  }
  // A region's last jobs.
  template <class F>
  void share_last(JobShares& jobs, const F& f) const {
    jobs.run(thread(), f);
  }
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
