// A kernel launch: everything its blocks share, and the run itself.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "ptxsim/block.h"
#include "ptxsim/loaded_module.h"
#include "ptxsim/metrics.h"
#include "ptxsim/report.h"

namespace ptxsim {

enum class Schedule : u8 {
  forward,  // warps and blocks in order, each as far as it gets
  reverse,  // the other way round
  random,   // by the seed: random warps, lanes and time slices
};

struct LaunchOptions {
  Schedule schedule = Schedule::random;
  u64 seed = 0;
  bool check_races = true;
  bool check_memory = true;  // bounds, alignment, uninitialised reads
  bool metrics = true;       // bank conflicts and sectors
  int workers = 1;
  u64 instruction_limit = u64{1} << 34;  // of one block; beyond: it hangs
};

struct LaunchResult {
  std::vector<Report> reports;
  Metrics metrics;
};

// The kernel's parameter buffer, aligned as the hardware's is: tensor maps may lie in it.
class Parameters {
 public:
  explicit Parameters(const std::vector<u8>& bytes);
  u8* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<u8[]> storage_;
  u8* data_;
  size_t size_;
};

class Launch {
 public:
  // `params`: the bytes of the kernel's parameter buffer. Throws std::invalid_argument for a shape
  // that no device could launch.
  Launch(const LoadedModule& module, const Program& program, const LaunchShape& shape,
         const std::vector<u8>& params, GlobalMemory& memory, const LaunchOptions& options);

  LaunchResult run();

  const LoadedModule& module;
  const Program& program;
  const LaunchShape shape;
  const Parameters params;
  GlobalMemory& memory;
  const LaunchOptions options;
  Reports reports;
  std::atomic<bool> stopped{false};

  // A finding about the instruction that `warp` executes, by `lane`.
  void report(const RunningWarp& warp, u32 lane, const char* kind, const std::string& message);
  // "PTX line 12 (file.cu:34)".
  std::string place(u32 pc) const;

  // Shadow memory is shared by all workers.
  std::unique_lock<std::mutex> lock_shadow(u64 address);

  // Strong accesses to global memory that publish.
  struct Published {
    std::mutex mutex;
    std::atomic<bool> any{false};
    std::unordered_map<u64, std::shared_ptr<const Clock::Foreign>> clocks;
  } published;

 private:
  std::string source_text(int file, int line) const;
  void check_shape() const;
  void work(std::atomic<u64>& next, const std::vector<u64>& order, Metrics& metrics);

  std::atomic<u32> latest_time_{0};
  std::array<std::mutex, 64> shadow_locks_;
};

}  // namespace ptxsim
