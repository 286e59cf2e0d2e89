#include "gemm/run.h"

#include <omp.h>

#include <cstring>

#include "gemm/plan.h"
#include "runtime/scratch.h"

namespace mn {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 127) / 128 * 128; }

}  // namespace

void run_gemm(const RowSource& x, const Weights& w, const int64_t* group_sizes, int64_t groups,
              void* y, bool y_bf16) {
  const PackedLayout& l = w.layout;
  const int kind = kind_of(l, x.bf16);
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const RowPlan plan = plan_rows(group_sizes, groups, kernels.tile_rows[kind]);
  if (plan.rows == 0 || l.outputs == 0) return;
  if (l.inputs == 0) {
    std::memset(y, 0, static_cast<size_t>(plan.rows * l.outputs * (y_bf16 ? 2 : 4)));
    return;
  }
  const int threads = omp_get_max_threads();
  const int64_t packed_bytes = row_bytes(l, kind);
  // One dense row is its own packed form.
  const bool as_it_is = plan.rows == 1 && kernels.scale_words[kind] == 0 &&
                        x.bf16 == (kernels.value_bytes[kind] == 2) &&
                        packed_bytes == l.inputs * kernels.value_bytes[kind];
  ScratchPlan parts;
  const int64_t rows_at = parts.add(as_it_is ? 0 : plan.rows * packed_bytes);
  const int64_t per_thread = aligned(gemm_thread_scratch(l, plan.most_rows, w.packed));
  const int64_t threads_at = parts.add(per_thread * threads);
  char* base = scratch(parts.total());
  kernels.multiply[kind]({.x = x,
                          .rows = plan.view(),
                          .w = w,
                          .y = y,
                          .y_stride = l.outputs,
                          .y_bf16 = y_bf16,
                          .packed_rows = as_it_is ? nullptr : base + rows_at,
                          .panels_per_job = plan_panels_per_job(l.panels(), plan, threads),
                          .threads = threads,
                          .thread_scratch = base + threads_at,
                          .thread_scratch_bytes = per_thread});
}

void run_weight_grad(const RowSource& dy, const RowSource& x, const std::vector<int64_t>& sizes,
                     int64_t outputs, int64_t inputs, Format format, void* dw, bool dw_bf16) {
  const int64_t groups = static_cast<int64_t>(sizes.size());
  if (groups * outputs * inputs == 0) return;
  const GemmKernels& kernels = gemm_kernels_for_isa();
  const RowPlan blocks = plan_rows(&outputs, 1, kernels.tile_rows[static_cast<int>(format)]);
  std::vector<int64_t> first{0};
  int64_t most = 0;
  for (const int64_t size : sizes) {
    first.push_back(first.back() + size);
    most = size > most ? size : most;
  }
  const int64_t depth = format == Format::bf16 ? 2 : 1;
  const int64_t panels = (inputs + kPanel - 1) / kPanel;
  const int threads = omp_get_max_threads();
  ScratchPlan parts;
  const int64_t x_at = parts.add(((first.back() + groups) / depth + 1) * panels * kStepBytes);
  const int64_t tile_bytes = (most + depth - 1) / depth * 4;
  const int64_t per_thread = aligned(blocks.most_rows * (4 * kPanel * 4 + tile_bytes));
  const int64_t threads_at = parts.add(per_thread * threads);
  char* base = scratch(parts.total());
  kernels.weight_grad[static_cast<int>(format)]({.dy = dy,
                                                 .x = x,
                                                 .group_first = first.data(),
                                                 .groups = groups,
                                                 .outputs = outputs,
                                                 .inputs = inputs,
                                                 .dw = dw,
                                                 .dw_bf16 = dw_bf16,
                                                 .blocks = blocks.blocks.data(),
                                                 .block_count = blocks.view().count,
                                                 .packed_x = base + x_at,
                                                 .threads = threads,
                                                 .thread_scratch = base + threads_at,
                                                 .thread_scratch_bytes = per_thread});
}

}  // namespace mn
