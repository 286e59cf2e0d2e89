// Packing and the grouped product, compiled once per ISA level. A plain product has one group.
#include <omp.h>

#include "gemm/problem.h"
#include "gemm/rows.h"
#include "gemm/store.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 18;  // multiply-adds below which one thread is faster

MN_INLINE int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

template <class F>
void pack(const PackProblem& p) {
  const PackedLayout& l = p.layout;
  parallel_for(l.experts * l.panels(), l.experts * l.outputs * l.inputs, kGrain, [&](int64_t job) {
    const int64_t expert = job / l.panels(), panel = job % l.panels();
    pack_panel<F>(static_cast<const typename F::Value*>(p.weight) + expert * p.expert_stride +
                      panel * kPanel * p.row_stride,
                  p.row_stride, static_cast<int>(lesser(kPanel, l.outputs - panel * kPanel)),
                  l.inputs, l.steps(),
                  p.packed + expert * l.expert_bytes() + panel * l.panel_bytes());
  });
}

template <class F>
void unpack(const PackProblem& p) {
  const PackedLayout& l = p.layout;
  parallel_for(l.experts * l.panels(), l.experts * l.outputs * l.inputs, kGrain, [&](int64_t job) {
    const int64_t expert = job / l.panels(), panel = job % l.panels();
    unpack_panel<F>(p.packed + expert * l.expert_bytes() + panel * l.panel_bytes(),
                    static_cast<int>(lesser(kPanel, l.outputs - panel * kPanel)), l.inputs,
                    l.steps(),
                    static_cast<typename F::Value*>(p.weight) + expert * p.expert_stride +
                        panel * kPanel * p.row_stride,
                    p.row_stride);
  });
}

// Panels that are computed before their sums are stored.
template <class F>
MN_INLINE int64_t panels_at_once(const RowBlock& block) {
  return block.rows <= block.height ? streams_for<F>(block.rows) : 1;
}

template <class F>
void multiply_and_store(const GemmProblem& p, const RowBlock& block, int64_t panel, int64_t count,
                        const typename F::Value* const* panels, float* c) {
  const int64_t steps = p.w.layout.steps();
  const PackedRows<F> x = p.packed_rows ? packed_block<F>(p.packed_rows, block, steps)
                                        : packed_block<F>(p.x.data, block, steps);
  multiply<F>(x, panels, static_cast<int>(count), steps, c, count * kPanel);
  const int64_t column = panel * kPanel;
  const int64_t columns = lesser(count * kPanel, p.w.layout.outputs - column);
  const int64_t at = block.first_row * p.y_stride + column;
  if (p.y_bf16)
    store_rows(c, count * kPanel, block.rows, columns, static_cast<bf16*>(p.y) + at, p.y_stride);
  else
    store_rows(c, count * kPanel, block.rows, columns, static_cast<float*>(p.y) + at, p.y_stride);
}

// One block and the panels [begin, end) of a packed weight.
template <class F>
void packed_job(const GemmProblem& p, const RowBlock& block, int64_t begin, int64_t end, float* c) {
  using Value = typename F::Value;
  const PackedLayout& l = p.w.layout;
  const char* weight = static_cast<const char*>(p.w.data) + block.group * l.expert_bytes();
  const int64_t at_once = panels_at_once<F>(block);
  for (int64_t panel = begin; panel < end; panel += at_once) {
    const int64_t count = lesser(at_once, end - panel);
    const Value* panels[4];
    for (int64_t i = 0; i < count; ++i)
      panels[i] = reinterpret_cast<const Value*>(weight + (panel + i) * l.panel_bytes());
    multiply_and_store<F>(p, block, panel, count, panels, c);
  }
}

// All blocks of a group and the panels [begin, end) of a plain weight, each packed once.
template <class F>
void plain_job(const GemmProblem& p, int64_t group, int64_t begin, int64_t end, float* c) {
  using Value = typename F::Value;
  const PackedLayout& l = p.w.layout;
  const Rows& rows = p.rows;
  if (rows.group_first[group] == rows.group_first[group + 1]) return;
  const int64_t at_once = panels_at_once<F>(rows.blocks[rows.group_first[group]]);
  char* packed = reinterpret_cast<char*>(c) + p.thread_scratch_bytes - 4 * l.panel_bytes();
  const Value* weight = static_cast<const Value*>(p.w.data) + group * p.w.expert_stride;
  for (int64_t panel = begin; panel < end; panel += at_once) {
    const int64_t count = lesser(at_once, end - panel);
    const Value* panels[4];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = (panel + i) * kPanel;
      pack_panel<F>(weight + row * p.w.row_stride, p.w.row_stride,
                    static_cast<int>(lesser(kPanel, l.outputs - row)), l.inputs, l.steps(),
                    packed + i * l.panel_bytes());
      panels[i] = reinterpret_cast<const Value*>(packed + i * l.panel_bytes());
    }
    for (int64_t b = rows.group_first[group]; b < rows.group_first[group + 1]; ++b)
      multiply_and_store<F>(p, rows.blocks[b], panel, count, panels, c);
  }
}

template <class F>
void multiply(const GemmProblem& p) {
  const PackedLayout& l = p.w.layout;
  const Rows& rows = p.rows;
  const int64_t pack_jobs = p.packed_rows ? rows.count * rows.most_tiles : 0;
  const int64_t pieces = (l.panels() + p.panels_per_job - 1) / p.panels_per_job;
  const int64_t jobs = pieces * (p.w.packed ? rows.count : rows.groups);
  const RowBlock& last = rows.blocks[rows.count - 1];
  const int64_t work = (last.first_row + last.rows) * l.outputs * l.inputs;
#pragma omp parallel num_threads(p.threads) if (work >= kGrain)
  {
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < pack_jobs; ++job)
      pack_rows<F>(p.x, rows.blocks[job / rows.most_tiles], job % rows.most_tiles, l.inputs,
                   l.steps(), p.packed_rows);

    float* c =
        reinterpret_cast<float*>(p.thread_scratch + omp_get_thread_num() * p.thread_scratch_bytes);
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < jobs; ++job) {
      const int64_t begin = job % pieces * p.panels_per_job;
      const int64_t end = lesser(begin + p.panels_per_job, l.panels());
      if (p.w.packed)
        packed_job<F>(p, rows.blocks[job / pieces], begin, end, c);
      else
        plain_job<F>(p, job / pieces, begin, end, c);
    }
  }
}

}  // namespace

extern const GemmKernels gemm_kernels = {
    {tile_rows<Bf16Format>(1), tile_rows<F32Format>(1)},
    {pack<Bf16Format>, pack<F32Format>},
    {unpack<Bf16Format>, unpack<F32Format>},
    {multiply<Bf16Format>, multiply<F32Format>},
};

}  // namespace mn::MN_ISA
