// Gradients of the rows of a routed layer, compiled once per ISA level. Those of the weights are
// products of gemm/weight_grad.h.
#include <omp.h>

#include "experts/problem.h"
#include "experts/slot_sum.h"
#include "experts/swiglu.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kRowsAhead = 8;

// From q [rows of the block][32] to one panel of d_gate_up, of scaled_h and of the dots.
template <class F>
void activation_grad(const ExpertBackwardProblem& p, const RowBlock& block, const float* q,
                     int64_t ldq, int64_t column) {
  using Value = typename F::Value;
  const int64_t rows = row_count(p.rows);
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t row = block.first_row + i;
    const Value* saved = static_cast<const Value*>(p.saved) + row * 2 * p.ffn + column;
    Value* d = static_cast<Value*>(p.d_gate_up) + row * 2 * p.ffn + column;
    Value* h = static_cast<Value*>(p.scaled_h) + row * p.ffn + column;
    // Rows are far apart: no stream that the hardware would recognise.
    const Value* later = saved + (i + kRowsAhead < block.rows ? kRowsAhead * 2 * p.ffn : 0);
    prefetch(later);
    prefetch(later + p.ffn);
    const f32x16 weight = f32x16::set1(p.row_weight ? p.row_weight[row] : 1.f);
    f32x16 dot = f32x16::zero();
    for (int64_t j = 0; j < kPanel && column + j < p.ffn; j += 16) {
      const int n = static_cast<int>(lesser(16, p.ffn - column - j));
      // Lanes from n on may hold anything; the loads of gate and up make their h zero.
      const f32x16 q16 = f32x16::load_n(q + i * ldq + j, n);
      const SwigluGrad grad = swiglu_grad(f32x16::load_n(saved + j, n),
                                          f32x16::load_n(saved + p.ffn + j, n), weight * q16);
      grad.gate.store_n(d + j, n);
      grad.up.store_n(d + p.ffn + j, n);
      (weight * grad.h).store_n(h + j, n);
      dot = fma(q16, grad.h, dot);
    }
    if (p.dots) p.dots[column / kPanel * rows + row] = reduce_add(dot);
  }
}

template <class F>
void activation_grad_job(const ExpertBackwardProblem& p, const BlockRange& blocks, int64_t begin,
                         int64_t end, char* scratch) {
  const PackedLayout& l = p.down_transposed.layout;
  constexpr int64_t ldc = 4 * kPanel;
  float* c = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + p.work.thread_scratch_bytes - 4 * l.panel_bytes();
  if (blocks.begin == blocks.end) return;
  for (int64_t panel = begin; panel < end; panel += 4) {
    const int64_t count = lesser(4, end - panel);
    const typename F::Value* panels[4];
    for (int64_t i = 0; i < count; ++i)
      panels[i] =
          panel_of<F>(p.down_transposed, blocks.group, panel + i, buffer + i * l.panel_bytes());
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const RowBlock& block = p.rows.blocks[b];
      multiply<F>(packed_block<F>(p.packed_dy, block, l.steps()), panels, static_cast<int>(count),
                  l.steps(), c, ldc);
      for (int64_t i = 0; i < count; ++i)
        activation_grad<F>(p, block, c + i * kPanel, ldc, (panel + i) * kPanel);
    }
  }
}

// The panels of a row are added in ascending order.
void sum_dots(const ExpertBackwardProblem& p, int64_t panels, int64_t begin, int64_t end) {
  const int64_t rows = row_count(p.rows);
  for (int64_t row = begin; row < end; ++row) {
    float sum = 0;
    for (int64_t panel = 0; panel < panels; ++panel) sum += p.dots[panel * rows + row];
    p.row_dots[row] = sum;
  }
}

template <class F>
void backward(const ExpertBackwardProblem& p) {
  const Rows& rows = p.rows;
  const Work& work = p.work;
  const PackedLayout &down = p.down_transposed.layout, &up = p.dx.w.layout;
  const int64_t pack_jobs = rows.count * rows.most_tiles;
  const int64_t pieces = (down.panels() + work.ffn_panels_per_job - 1) / work.ffn_panels_per_job;
  const int64_t jobs = pieces * range_count(rows, p.down_transposed);
  const int64_t width = work.width_panels_per_job;
  const int64_t dx_jobs = p.wants_dx ? (up.panels() + width - 1) / width : 0;
  constexpr int64_t kDotRows = 1024;
  const int64_t dot_jobs = p.dots ? (row_count(rows) + kDotRows - 1) / kDotRows : 0;
  const RowSource d_rows{p.d_gate_up, 2 * p.ffn, nullptr, F::kDepth == 2};
#pragma omp parallel num_threads(work.threads)
  {
    char* scratch = work.thread_scratch + omp_get_thread_num() * work.thread_scratch_bytes;
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < pack_jobs; ++job)
      pack_rows<F>(p.dy, rows.blocks[job / rows.most_tiles], job % rows.most_tiles, down.inputs,
                   down.steps(), p.packed_dy);
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < jobs; ++job) {
      const int64_t begin = job % pieces * work.ffn_panels_per_job;
      activation_grad_job<F>(p, block_range(rows, p.down_transposed, job / pieces), begin,
                             lesser(begin + work.ffn_panels_per_job, down.panels()), scratch);
    }
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < dot_jobs; ++job)
      sum_dots(p, down.panels(), job * kDotRows, lesser((job + 1) * kDotRows, row_count(rows)));
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < (p.wants_dx ? pack_jobs : 0); ++job)
      pack_rows<F>(d_rows, rows.blocks[job / rows.most_tiles], job % rows.most_tiles, up.inputs,
                   up.steps(), p.packed_d);
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < dx_jobs; ++job)
      slot_sum_job<F>(p.dx, job * width, lesser((job + 1) * width, up.panels()), scratch);
  }
}

}  // namespace

extern const ExpertBackwardKernels expert_backward_kernels = {
    {backward<Bf16Format>, backward<F32Format>},
};

}  // namespace mn::MN_ISA
