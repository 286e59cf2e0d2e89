// Packing and the grouped product, compiled once per ISA level. A plain product has one group.
#include "gemm/coded_rows.h"
#include "gemm/panels.h"
#include "gemm/problem.h"
#include "gemm/rows.h"
#include "gemm/store.h"
#include "gemm/weight_grad.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 18;  // multiply-adds below which one thread is faster

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

template <class F>
void multiply_and_store(const GemmProblem& p, const RowBlock& block, int64_t panel, int64_t count,
                        const typename F::Value* const* panels, float* c) {
  const PackedLayout& l = p.w.layout;
  const void* rows = p.packed_rows ? p.packed_rows : p.x.data;
  const int64_t column = panel * kPanel;
  const int64_t columns = lesser(count * kPanel, l.outputs - column);
  const int64_t at = block.first_row * p.y_stride + column;
  const int64_t value = p.y_bf16 ? 2 : 4;
  prefetch_rows(static_cast<const char*>(p.y) + at * value, p.y_stride * value, block.rows,
                columns * value);
  multiply_panels<F>(l, packed_block<F>(rows, block, row_steps<F>(l)), panels, count, c,
                     count * kPanel);
  if (p.y_bf16)
    store_rows(c, count * kPanel, block.rows, columns, static_cast<bf16*>(p.y) + at, p.y_stride);
  else
    store_rows(c, count * kPanel, block.rows, columns, static_cast<float*>(p.y) + at, p.y_stride);
}

// Some blocks of a group times the panels [begin, end).
template <class F>
void multiply_job(const GemmProblem& p, const BlockRange& blocks, int64_t begin, int64_t end,
                  char* scratch) {
  if (blocks.begin == blocks.end) return;
  float* c = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + p.thread_scratch_bytes - 4 * p.w.layout.panel_bytes();
  // Four plain panels at a time, so that a block of rows is read once for all of them.
  const int64_t at_once = p.w.packed ? panels_at_once<F>(p.rows.blocks[blocks.begin]) : 4;
  for (int64_t panel = begin; panel < end; panel += at_once) {
    const int64_t count = lesser(at_once, end - panel);
    const typename F::Value* panels[kMostPanels];
    for (int64_t i = 0; i < count; ++i)
      panels[i] = panel_of<F>(p.w, blocks.group, panel + i, buffer + i * p.w.layout.panel_bytes());
    for (int64_t b = blocks.begin; b < blocks.end; ++b)
      multiply_and_store<F>(p, p.rows.blocks[b], panel, count, panels, c);
  }
}

template <class F>
void multiply(const GemmProblem& p) {
  const PackedLayout& l = p.w.layout;
  const Rows& rows = p.rows;
  const int64_t pack_jobs = p.packed_rows ? rows.count * rows.most_tiles : 0;
  const int64_t pieces = (l.panels() + p.panels_per_job - 1) / p.panels_per_job;
  const int64_t jobs = pieces * range_count(rows, p.w);
  JobShares shares(jobs, p.threads);
  parallel_region(p.threads, row_count(rows) * l.outputs * l.inputs, kGrain, [&](const Team& team) {
    if (pack_jobs > 0)
      team.share(pack_jobs, [&](int64_t job) {
        pack_block_tile<F>(p.x, rows.blocks[job / rows.most_tiles], job % rows.most_tiles, l,
                           p.packed_rows);
      });
    char* scratch = p.thread_scratch + team.thread() * p.thread_scratch_bytes;
    team.share_last(shares, [&](int64_t job) {
      const int64_t begin = job % pieces * p.panels_per_job;
      const int64_t end = lesser(begin + p.panels_per_job, l.panels());
      multiply_job<F>(p, block_range(rows, p.w, job / pieces), begin, end, scratch);
    });
  });
}

}  // namespace

extern const GemmKernels gemm_kernels = {
    {tile_rows<Bf16Format>(1), tile_rows<F32Format>(1), kCodedRows, kCodedRows, kQuantisedRows},
    {2, 4, sizeof(CodedBf16::Value), sizeof(CodedF32::Value), sizeof(CodedQuantised::Value)},
    {0, 0, 0, 0, QuantisedRows::kScaleWords},
    {pack<Bf16Format>, pack<F32Format>},
    {unpack<Bf16Format>, unpack<F32Format>},
    {multiply<Bf16Format>, multiply<F32Format>, multiply<CodedBf16>, multiply<CodedF32>,
     multiply<CodedQuantised>},
    {weight_grad<Bf16Format>, weight_grad<F32Format>},
};

}  // namespace mn::MN_ISA
