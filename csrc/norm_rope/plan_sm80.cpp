#include "norm_rope/plan_sm80.h"

namespace mn {
namespace {

constexpr int kWideBytes = 16;

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kWideBytes == 0; }

}  // namespace

RmsNormPlan plan_rms_norm(const RmsNormProblem& p, int x_size, int weight_size) {
  RmsNormPlan plan{};
  const int64_t lanes = kWideBytes / x_size;
  // The weight has as many elements per load as x, so its loads can be two of 16 bytes.
  plan.wide = p.dim % lanes == 0 && p.x_stride % lanes == 0 && aligned(p.x) && aligned(p.y) &&
              aligned(p.weight) && weight_size >= x_size;
  const int64_t loads = plan.wide ? p.dim / lanes : p.dim;
  // About two loads per thread in flight; a whole warp at least, since its shuffles are the
  // reduction.
  plan.threads_per_row = 32;
  while (plan.threads_per_row < kRmsNormThreads && loads > 2 * plan.threads_per_row)
    plan.threads_per_row *= 2;
  plan.rows_per_block = kRmsNormThreads / plan.threads_per_row;
  plan.blocks = static_cast<unsigned>((p.rows + plan.rows_per_block - 1) / plan.rows_per_block);
  return plan;
}

}  // namespace mn
