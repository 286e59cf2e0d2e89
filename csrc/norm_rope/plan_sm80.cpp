#include "norm_rope/plan_sm80.h"

namespace mn {
namespace {

constexpr int kWideBytes = 16;

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kWideBytes == 0; }

bool wide(const RopeTensor& t, int64_t lanes) {
  return t.dim % lanes == 0 && t.token_stride % lanes == 0 && t.head_stride % lanes == 0 &&
         aligned(t.in) && aligned(t.out);
}

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

RopePlan plan_rope(const RopeProblem& p, const RopeCacheSm80* cache, int size) {
  RopePlan plan{};
  const int64_t wide_lanes = kWideBytes / size, half = p.rotary_dim / 2;
  plan.wide = half % wide_lanes == 0 && wide(p.q, wide_lanes) && wide(p.k, wide_lanes) &&
              wide(p.v, wide_lanes) && aligned(p.table) &&
              (!cache || (aligned(cache->keys) && aligned(cache->values)));
  const int64_t lanes = plan.wide ? wide_lanes : 1;
  plan.head_items = static_cast<int>((p.q.dim - half) / lanes);
  plan.value_items = static_cast<int>(p.v.dim / lanes);
  const int64_t items = (p.q.heads + p.k.heads) * plan.head_items + p.v.heads * plan.value_items;
  plan.threads = static_cast<int>(items < kRopeThreads ? (items + 31) / 32 * 32 : kRopeThreads);
  if (items > 0)
    plan.blocks_per_token = static_cast<unsigned>((items + plan.threads - 1) / plan.threads);
  return plan;
}

}  // namespace mn
