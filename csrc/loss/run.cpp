#include "loss/run.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "gemm/plan.h"
#include "runtime/scratch.h"

namespace mn {
namespace {

// Ids whose logit gradients live at a time: as many inputs as keep a block of rows in L2, so that
// dx, which is read and written once per slice, costs little.
constexpr int64_t kSlice = 4096;

int64_t value_bytes(const PackedLayout& l) { return l.format == Format::bf16 ? 2 : 4; }
int64_t aligned(int64_t bytes) { return (bytes + 127) / 128 * 128; }
int64_t steps_of(int64_t inputs, const PackedLayout& l) {
  return (inputs + l.depth() - 1) / l.depth();
}

RowPlan plan_head(const Head& head, int64_t count) {
  if (!head.w.data) return {};
  const int kind = kind_of(head.w.layout, head.x.bf16);
  return plan_rows(&count, 1, gemm_kernels_for_isa().tile_rows[kind]);
}

int64_t packed_bytes(const Head& head, int64_t count) {
  if (!head.w.data) return 0;
  return count * row_bytes(head.w.layout, kind_of(head.w.layout, head.x.bf16));
}

// Four plain panels of whichever head has the larger ones.
int64_t panel_buffer(const Head& head, const Head& teacher) {
  int64_t bytes = 0;
  for (const Head* h : {&head, &teacher})
    if (h->w.data && !h->w.packed) bytes = std::max(bytes, 4 * h->w.layout.panel_bytes());
  return bytes;
}

}  // namespace

void run_loss_forward(LossForward p) {
  if (p.count == 0) return;
  const RowPlan rows = plan_head(p.head, p.count), teacher_rows = plan_head(p.teacher, p.count);
  const bool teacher = p.teacher.w.data != nullptr;
  const int64_t stats = softmax_chunks(p.head.w.layout.outputs) * p.count;
  p.threads = omp_get_max_threads();
  p.thread_scratch_bytes =
      aligned(p.count * kSoftmaxChunk * 4 * (teacher ? 2 : 1) + panel_buffer(p.head, p.teacher));
  ScratchPlan parts;
  const int64_t rows_at = parts.add(packed_bytes(p.head, p.count));
  const int64_t teacher_at = parts.add(packed_bytes(p.teacher, p.count));
  const int64_t ids_at = parts.add(p.count * p.ids_per_row * 4);
  const int64_t stats_at = parts.add(stats * int64_t{sizeof(ChunkStat)});
  const int64_t teacher_stats_at = parts.add(teacher ? stats * int64_t{sizeof(ChunkStat)} : 0);
  const int64_t threads_at = parts.add(p.thread_scratch_bytes * p.threads);
  char* base = scratch(parts.total());
  p.head.rows = rows.view();
  p.head.packed_rows = base + rows_at;
  p.teacher.rows = teacher_rows.view();
  p.teacher.packed_rows = teacher ? base + teacher_at : nullptr;
  p.id_logits = reinterpret_cast<float*>(base + ids_at);
  p.stats = reinterpret_cast<ChunkStat*>(base + stats_at);
  p.teacher_stats = reinterpret_cast<ChunkStat*>(base + teacher_stats_at);
  p.thread_scratch = base + threads_at;
  loss_kernels_for_isa().forward(p);
}

void run_loss_backward(LossBackward p) {
  const PackedLayout& l = p.head.w.layout;
  if (p.count == 0) {
    if (p.dw) std::memset(p.dw, 0, static_cast<size_t>(l.outputs * l.inputs * value_bytes(l)));
    return;
  }
  const int format = static_cast<int>(l.format);
  const RowPlan rows = plan_head(p.head, p.count), teacher_rows = plan_head(p.teacher, p.count);
  const bool teacher = p.teacher.w.data != nullptr, wants_dx = p.dx || p.dx_bf16;
  p.slice = std::min(kSlice, (l.outputs + kLossGroup - 1) / kLossGroup * kLossGroup);
  const RowPlan blocks = plan_rows(&p.slice, 1, gemm_kernels_for_isa().tile_rows[format]);
  p.most_block_rows = rows.most_rows;
  p.slice_blocks = blocks.blocks.data();
  p.slice_block_count = static_cast<int64_t>(blocks.blocks.size());

  p.threads = omp_get_max_threads();
  const int64_t slice_steps = steps_of(p.slice, l), row_steps = steps_of(p.count, l);
  const int64_t gradient =
      p.count * kLossGroup * 4 * (teacher ? 2 : 1) + panel_buffer(p.head, p.teacher);
  const int64_t input = rows.most_rows * kLossGroup * 4 + 4 * slice_steps * kStepBytes;
  const int64_t weight = blocks.most_rows * (4 * kPanel * 4 + row_steps * 4);
  p.thread_scratch_bytes = aligned(std::max({gradient, wants_dx ? input : 0, p.dw ? weight : 0}));

  ScratchPlan parts;
  const int64_t panels = (l.inputs + kPanel - 1) / kPanel;
  const int64_t rows_at = parts.add(packed_bytes(p.head, p.count));
  const int64_t teacher_at = parts.add(packed_bytes(p.teacher, p.count));
  const int64_t d_at = parts.add(p.count * p.slice * value_bytes(l));
  const int64_t tiles_at = parts.add(wants_dx ? p.count * slice_steps * 4 : 0);
  const int64_t x_at = parts.add(p.dw ? row_steps * panels * kStepBytes : 0);
  const int64_t plain_at =
      parts.add(wants_dx && p.head.w.packed ? p.slice * l.inputs * value_bytes(l) : 0);
  // Rows of dx are rounded in whole vectors: room for one beyond the last.
  const int64_t dx_at = parts.add(p.dx_bf16 ? (p.count * l.inputs + 16) * 4 : 0);
  const int64_t threads_at = parts.add(p.thread_scratch_bytes * p.threads);
  char* base = scratch(parts.total());
  p.head.rows = rows.view();
  p.head.packed_rows = base + rows_at;
  p.teacher.rows = teacher_rows.view();
  p.teacher.packed_rows = teacher ? base + teacher_at : nullptr;
  p.d = base + d_at;
  p.packed_d = base + tiles_at;
  p.packed_x = base + x_at;
  p.unpacked = base + plain_at;
  if (p.dx_bf16) p.dx = reinterpret_cast<float*>(base + dx_at);
  p.thread_scratch = base + threads_at;
  loss_backward_kernels_for_isa().backward[format](p);
}

}  // namespace mn
