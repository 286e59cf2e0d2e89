// The gradient of weights: a product whose inputs are the rows of a group. Its own rows are the
// columns of dy, its panels the columns of x, so that neither operand needs a transposition.
#pragma once

#include <omp.h>

#include "gemm/panels.h"
#include "gemm/rows.h"
#include "gemm/store.h"

namespace mn::MN_ISA {
namespace {

template <class F>
MN_INLINE const typename F::Value* source_row(const RowSource& x, int64_t row) {
  return static_cast<const typename F::Value*>(x.data) + (x.index ? x.index[row] : row) * x.stride;
}

template <class F>
MN_INLINE int64_t steps_of(int64_t rows) {
  return (rows + F::kDepth - 1) / F::kDepth;
}

// Panels of a group begin at its first row, rounded up by at most one row per group before it.
template <class F>
MN_INLINE char* packed_panel(const WeightGradProblem& p, int64_t group, int64_t panel) {
  const int64_t panels = (p.inputs + kPanel - 1) / kPanel;
  const int64_t first = steps_of<F>(p.group_first[group] + group * (F::kDepth - 1));
  const int64_t steps = steps_of<F>(p.group_first[group + 1] - p.group_first[group]);
  return p.packed_x + (first * panels + panel * steps) * kStepBytes;
}

// The columns of a block as packed rows. All its tiles are filled in one pass over the source,
// whose rows may be so far apart that a second pass would find none of their lines in a cache.
template <class F>
void pack_column_tiles(const RowSource& dy, int64_t first, int64_t rows, const RowBlock& block,
                       uint32_t* out) {
  const int64_t steps = steps_of<F>(rows);
  constexpr int64_t kAhead = 16;
  const bf16 zeros[kMaxRows] = {};
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t i = first + s * F::kDepth;
    const typename F::Value* p = source_row<F>(dy, i) + block.first_row;
    for (int64_t next = i + kAhead; next < i + kAhead + F::kDepth; ++next) {
      const int64_t row = next < first + rows ? next : i;
      const typename F::Value* line = source_row<F>(dy, row) + block.first_row;
      for (int column = 0; column < block.rows; column += 32) prefetch(line + column);
    }
    for (int row = 0; row < block.rows; row += block.height) {
      const int n = block.rows - row < block.height ? block.rows - row : block.height;
      uint32_t* to = out + row * steps + s * n;
      if constexpr (F::kDepth == 1) {
        u32x16::load_n(p + row, n).store_n(to, n);
      } else {
        const bool alone = i + 1 >= first + rows;
        const bf16* next = alone ? zeros : source_row<F>(dy, i + 1) + block.first_row + row;
        u32x16::interleave_n(p + row, next, n).store_n(to, n);
      }
    }
  }
}

template <class F, class Y>
void weight_grad_job(const WeightGradProblem& p, int64_t group, const RowBlock& block,
                     char* scratch) {
  using Value = typename F::Value;
  const int64_t first = p.group_first[group], rows = p.group_first[group + 1] - first;
  const int64_t panels = (p.inputs + kPanel - 1) / kPanel, steps = steps_of<F>(rows);
  Y* dw = static_cast<Y*>(p.dw) + (group * p.outputs + block.first_row) * p.inputs;
  if (rows == 0) {
    std::memset(dw, 0, static_cast<size_t>(block.rows * p.inputs) * sizeof(Y));
    return;
  }
  constexpr int64_t ldc = 4 * kPanel;
  float* c = reinterpret_cast<float*>(scratch);
  char* tiles = scratch + block.rows * ldc * 4;
  pack_column_tiles<F>(p.dy, first, rows, block, reinterpret_cast<uint32_t*>(tiles));
  const PackedRows<F> packed{reinterpret_cast<const Value*>(tiles), block.rows, block.height};
  for (int64_t panel = 0; panel < panels; panel += 4) {
    const int64_t count = lesser(4, panels - panel);
    const Value* b[4];
    for (int64_t i = 0; i < count; ++i)
      b[i] = reinterpret_cast<const Value*>(packed_panel<F>(p, group, panel + i));
    multiply<F>(packed, b, static_cast<int>(count), steps, c, ldc);
    const int64_t column = panel * kPanel;
    store_rows(c, ldc, block.rows, lesser(count * kPanel, p.inputs - column), dw + column,
               p.inputs);
  }
}

template <class F>
void weight_grad(const WeightGradProblem& p) {
  const int64_t panels = (p.inputs + kPanel - 1) / kPanel;
  const int64_t pack_jobs = p.groups * panels, jobs = p.groups * p.block_count;
#pragma omp parallel num_threads(p.threads)
  {
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < pack_jobs; ++job) {
      const int64_t group = job / panels, column = job % panels * kPanel;
      const int64_t first = p.group_first[group];
      pack_columns<F>([&](int64_t i) { return source_row<F>(p.x, first + i); },
                      p.group_first[group + 1] - first, column,
                      static_cast<int>(lesser(kPanel, p.inputs - column)),
                      packed_panel<F>(p, group, job % panels));
    }
    char* scratch = p.thread_scratch + omp_get_thread_num() * p.thread_scratch_bytes;
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < jobs; ++job) {
      const RowBlock& block = p.blocks[job % p.block_count];
      if (p.dw_bf16)
        weight_grad_job<F, bf16>(p, job / p.block_count, block, scratch);
      else
        weight_grad_job<F, float>(p, job / p.block_count, block, scratch);
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
