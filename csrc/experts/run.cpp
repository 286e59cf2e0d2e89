#include "experts/run.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "experts/plan.h"
#include "gemm/run.h"
#include "runtime/scratch.h"

namespace mn {
namespace {

// Tokens of one pass: an expert's weights are then used for so many rows on average that reading
// them again is hidden behind the arithmetic, and the scratch stays near the caches.
constexpr int64_t kRowsPerExpert = 64;
constexpr int64_t kLeastTokens = 256;
constexpr int64_t kJobsPerThread = 8;
// Products of the second matrix that are stored: with more rows, arithmetic takes the time.
constexpr int64_t kStoredBytes = 4 << 20;

ExpertPlan plan_layer(const ExpertLayer& layer, int64_t first, int64_t tokens, int kind) {
  const int tile_rows = gemm_kernels_for_isa().tile_rows[kind];
  if (layer.routed)
    return plan_experts(layer.ids + first * layer.slots, tokens, layer.slots,
                        layer.gate_up.layout.experts, tile_rows);
  ExpertPlan plan;
  plan.tokens = tokens;
  plan.slots = 1;
  plan.sizes = {tokens};
  plan.rows = plan_rows(plan.sizes.data(), 1, tile_rows);
  return plan;
}

const int32_t* index_or_null(const std::vector<int32_t>& index) {
  return index.empty() ? nullptr : index.data();
}

// Threads' scratch: sums of a block over four panels, or of all rows over a job's columns; then
// four plain panels.
Work plan_work(const RowPlan& rows, int64_t ffn, int64_t width, int64_t panel_bytes) {
  Work work{};
  work.threads = omp_get_max_threads();
  work.ffn_panels_per_job = plan_panels_per_job((ffn + kPanel - 1) / kPanel, rows, work.threads);
  work.width_panels_per_job =
      std::clamp<int64_t>(width / kPanel / (kJobsPerThread * work.threads), 1, 4);
  work.sum_panels_per_job = plan_panels_per_job((width + kPanel - 1) / kPanel, rows, work.threads);
  const int64_t sums =
      std::max(rows.most_rows * 4 * kPanel, rows.rows * work.width_panels_per_job * kPanel);
  work.thread_scratch_bytes = (sums * 4 + 4 * panel_bytes + 127) / 128 * 128;
  return work;
}

void forward_pass(const ExpertLayer& layer, const ExpertPlan& plan, const RowSource& x,
                  const float* weights, void* saved, void* y, bool y_bf16) {
  const PackedLayout &up = layer.gate_up.layout, &down = layer.down.layout;
  const int64_t panel_bytes = std::max(up.panel_bytes(), down.panel_bytes());
  Work work = plan_work(plan.rows, down.inputs, down.outputs, layer.down.packed ? 0 : panel_bytes);
  ScratchPlan parts;
  const int kind = kind_of(up, x.bf16);
  const int64_t x_at = parts.add(plan.rows.rows * row_bytes(up, kind));
  const int64_t h_at = parts.add(plan.rows.rows * row_bytes(down, kind));
  const bool stored =
      layer.down.packed && plan.rows.rows * down.panels() * kPanel * 4 <= kStoredBytes;
  const int64_t products_at = parts.add(stored ? plan.rows.rows * product_stride(down) * 4 : 0);
  const int64_t threads_at = parts.add(work.thread_scratch_bytes * work.threads);
  char* base = scratch(parts.total());
  work.thread_scratch = base + threads_at;
  expert_kernels_for_isa().forward[kind](
      {.x = {x.data, x.stride, index_or_null(plan.token), x.bf16},
       .gate_up = layer.gate_up,
       .saved = saved,
       .packed_x = base + x_at,
       .packed_h = base + h_at,
       .down = {.tokens = plan.tokens,
                .slots = plan.slots,
                .rows = plan.rows.view(),
                .w = layer.down,
                .packed = base + h_at,
                .position = index_or_null(plan.position),
                .weights = weights,
                .products = stored ? reinterpret_cast<float*>(base + products_at) : nullptr,
                .y = y,
                .y_bf16 = y_bf16},
       .work = work});
}

std::vector<float> sort_weights(const ExpertLayer& layer, const ExpertPlan& plan) {
  std::vector<float> sorted(layer.weights ? plan.position.size() : 0);
  for (size_t i = 0; i < sorted.size(); ++i)
    sorted[static_cast<size_t>(plan.position[i])] = layer.weights[i];
  return sorted;
}

// d_gate_up, scaled_h, dweights and dx.
void backward_rows(const ExpertLayer& layer, const ExpertPlan& plan, const RowSource& dy,
                   const void* saved, const ExpertGrads& grads) {
  const Weights down = transposed(layer.down), up = transposed(layer.gate_up);
  const int64_t rows = plan.rows.rows, ffn = down.layout.outputs;
  const std::vector<float> row_weight = sort_weights(layer, plan);
  Work work = plan_work(plan.rows, ffn, up.layout.outputs,
                        std::max(up.layout.panel_bytes(), down.layout.panel_bytes()));
  ScratchPlan parts;
  const int64_t dy_at = parts.add(rows * row_bytes(down.layout, 0));
  const int64_t d_at = parts.add(grads.dx ? rows * row_bytes(up.layout, 0) : 0);
  const int64_t dots_at = parts.add(grads.dweights ? rows * down.layout.panels() * 4 : 0);
  const int64_t row_dots_at = parts.add(grads.dweights ? rows * 4 : 0);
  const int64_t threads_at = parts.add(work.thread_scratch_bytes * work.threads);
  char* base = scratch(parts.total());
  work.thread_scratch = base + threads_at;
  float* row_dots = reinterpret_cast<float*>(base + row_dots_at);
  expert_backward_kernels_for_isa().backward[static_cast<int>(up.layout.format)](
      {.dy = dy,
       .rows = plan.rows.view(),
       .ffn = ffn,
       .saved = saved,
       .row_weight = row_weight.empty() ? nullptr : row_weight.data(),
       .down_transposed = down,
       .d_gate_up = grads.d_gate_up,
       .scaled_h = grads.scaled_h,
       .dots = grads.dweights ? reinterpret_cast<float*>(base + dots_at) : nullptr,
       .row_dots = row_dots,
       .packed_dy = base + dy_at,
       .wants_dx = grads.dx != nullptr,
       .packed_d = base + d_at,
       .dx = {.tokens = plan.tokens,
              .slots = plan.slots,
              .rows = plan.rows.view(),
              .w = up,
              .packed = base + d_at,
              .position = index_or_null(plan.position),
              .weights = nullptr,
              .products = nullptr,
              .y = grads.dx,
              .y_bf16 = up.layout.format == Format::bf16},
       .work = work});
  if (grads.dweights)
    for (size_t i = 0; i < plan.position.size(); ++i)
      grads.dweights[i] = row_dots[plan.position[i]];
}

}  // namespace

void run_experts(const ExpertLayer& layer, const RowSource& x, int64_t tokens, void* saved, void* y,
                 bool y_bf16) {
  const int64_t width = layer.down.layout.outputs, slots = layer.slots;
  const int64_t value = x.bf16 ? 2 : 4, y_value = y_bf16 ? 2 : 4;
  const int64_t wanted =
      std::max(kLeastTokens, kRowsPerExpert * layer.gate_up.layout.experts / slots);
  // The backward takes all rows of an expert together.
  const int64_t most = saved ? tokens : wanted;
  for (int64_t first = 0; first < tokens; first += most) {
    const int64_t count = std::min(most, tokens - first);
    RowSource rows = x;
    rows.data = static_cast<const char*>(x.data) + first * x.stride * value;
    forward_pass(layer, plan_layer(layer, first, count, kind_of(layer.gate_up.layout, x.bf16)),
                 rows, layer.weights ? layer.weights + first * slots : nullptr, saved,
                 static_cast<char*>(y) + first * width * y_value, y_bf16);
  }
}

void run_experts_backward(const ExpertLayer& layer, const RowSource& dy, const RowSource& x,
                          int64_t tokens, const void* saved, const ExpertGrads& grads) {
  const PackedLayout &up = layer.gate_up.layout, &down = layer.down.layout;
  const bool bf16 = up.format == Format::bf16;
  const ExpertPlan plan = plan_layer(layer, 0, tokens, kind_of(up, dy.bf16));
  RowSource dy_rows = dy, x_rows = x;
  dy_rows.index = x_rows.index = index_or_null(plan.token);
  if (plan.rows.rows > 0) backward_rows(layer, plan, dy_rows, saved, grads);
  if (grads.dw_gate_up)
    run_weight_grad({grads.d_gate_up, up.outputs, nullptr, bf16}, x_rows, plan.sizes, up.outputs,
                    up.inputs, up.format, grads.dw_gate_up, bf16);
  if (grads.dw_down)
    run_weight_grad(dy_rows, {grads.scaled_h, down.inputs, nullptr, bf16}, plan.sizes, down.outputs,
                    down.inputs, down.format, grads.dw_down, bf16);
}

}  // namespace mn
