// The residual stream's additions, compiled once per ISA level.
#include "model/problem.h"
#include "runtime/parallel.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 16;  // elements below which one thread is faster
constexpr int64_t kPerJob = 1 << 14;

template <class T>
void add(const AddProblem& p) {
  T* x = static_cast<T*>(p.x);
  const T* y = static_cast<const T*>(p.y);
  parallel_for((p.count + kPerJob - 1) / kPerJob, p.count, kGrain, [&](int64_t job) {
    const int64_t end = (job + 1) * kPerJob < p.count ? (job + 1) * kPerJob : p.count;
    int64_t i = job * kPerJob;
    for (; i + 16 <= end; i += 16) (f32x16::load(x + i) + f32x16::load(y + i)).store(x + i);
    if (i < end) {
      const int n = static_cast<int>(end - i);
      (f32x16::load_n(x + i, n) + f32x16::load_n(y + i, n)).store_n(x + i, n);
    }
  });
}

}  // namespace

extern const ModelKernels model_kernels = {add<float>, add<bf16>};

}  // namespace mn::MN_ISA
