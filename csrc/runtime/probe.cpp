#include "runtime/probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "runtime/check.h"
#include "runtime/module.h"

namespace mn {
namespace {

constexpr double kSampleSeconds = 2e-3;
constexpr int kSamples = 20;
constexpr int64_t kMaxThreads = 4096;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kReadUnit = 512 * sizeof(float);

using Clock = std::chrono::steady_clock;

// Seconds that `threads` threads take to run work(thread) together.
template <class F>
double seconds_of(int threads, const F& work) {
  const Clock::time_point began = Clock::now();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) work(t);
  return std::chrono::duration<double>(Clock::now() - began).count();
}

// The best rate of many short samples: other work on the machine can only lower one.
// work(thread, repeats) does `amount` units per repeat and thread. The length of a sample is found
// on one thread, which waits for no other.
template <class F>
double best_rate(int threads, double amount, const F& work) {
  const auto sample = [&](int n, int64_t repeats) {
    return seconds_of(n, [&](int t) { work(t, repeats); });
  };
  int64_t repeats = 1;
  while (sample(1, repeats) < kSampleSeconds) repeats *= 2;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kSamples; ++i) least = std::min(least, sample(threads, repeats));
  return amount * static_cast<double>(repeats) * threads / least;
}

double probe_flops(const std::string& dtype, int64_t threads) {
  const Check check("probe_flops");
  if (dtype != "f32" && dtype != "bf16" && dtype != "int8")
    check.fail("dtype", "\"f32\", \"bf16\" or \"int8\"", dtype);
  check.range(threads, "threads", 1, kMaxThreads);
  const ProbeKernels& kernels = probe_kernels_for_isa();
  const bool bf16 = dtype == "bf16", int8 = dtype == "int8";
  const auto run = int8   ? kernels.multiply_add_int8
                   : bf16 ? kernels.multiply_add_bf16
                          : kernels.multiply_add_f32;
  const int products = int8 ? kernels.int8_products : bf16 ? 2 : 1;
  constexpr int64_t kRounds = 1 << 12;
  const double flops = 2.0 * 16 * products * kernels.chains * kRounds;
  std::vector<float> sink(static_cast<size_t>(threads));
  return best_rate(static_cast<int>(threads), flops, [&](int t, int64_t repeats) {
    sink[static_cast<size_t>(t)] = run(kRounds * repeats);
  });
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Free>;

Buffer huge_buffer(int64_t bytes) {
  const int64_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* p = std::aligned_alloc(kHugePage, static_cast<size_t>(rounded));
  if (p == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(p, static_cast<size_t>(rounded), MADV_HUGEPAGE);
#endif
  return Buffer(static_cast<float*>(p));
}

double probe_bandwidth(int64_t bytes, int64_t threads) {
  const Check check("probe_bandwidth");
  check.range(bytes, "bytes", kReadUnit, int64_t{1} << 40);
  check.range(threads, "threads", 1, kMaxThreads);
  const ProbeKernels& kernels = probe_kernels_for_isa();
  const int64_t count = bytes / kReadUnit * 512;
  std::vector<Buffer> buffers;
  for (int64_t t = 0; t < threads; ++t) buffers.push_back(huge_buffer(bytes));
  std::vector<float> sink(buffers.size());
  const int n = static_cast<int>(threads);
  // Each thread touches its own pages first, so that they lie in its memory.
  seconds_of(n, [&](int t) { std::fill_n(buffers[static_cast<size_t>(t)].get(), count, 0.f); });
  return best_rate(n, static_cast<double>(count) * sizeof(float), [&](int t, int64_t repeats) {
    const auto i = static_cast<size_t>(t);
    for (int64_t r = 0; r < repeats; ++r) sink[i] += kernels.read(buffers[i].get(), count);
  });
}

}  // namespace

void bind_probe(pybind11::module_& m) {
  namespace py = pybind11;
  const py::call_guard<py::gil_scoped_release> release;
  m.def("probe_flops", &probe_flops, py::arg("dtype"), py::arg("threads"), release,
        "Most operations per second that 'f32', 'bf16' or 'int8' multiply-adds reach.");
  m.def("probe_bandwidth", &probe_bandwidth, py::arg("bytes"), py::arg("threads"), release,
        "Most bytes per second that each thread's own `bytes` can be read with, over all threads.");
}

}  // namespace mn
