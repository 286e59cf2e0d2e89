// Gather, gate and up products, SwiGLU, down product, and the sum over a token's slots: one
// parallel region, compiled once per ISA level.
#include <omp.h>

#include "experts/problem.h"
#include "experts/swiglu.h"
#include "gemm/multiply.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 15;      // elements below which one thread is faster
constexpr int64_t kWorkGrain = 1 << 18;  // multiply-adds, likewise

// Activations of some blocks of an expert for the ffn panels [begin, end). A gate panel and the up
// panel of the same columns are computed side by side; where ffn is no multiple of a panel, the up
// columns lie across two panels.
template <class F>
void gate_up_job(const ExpertProblem& p, const BlockRange& blocks, int64_t begin, int64_t end,
                 char* scratch) {
  if (blocks.begin == blocks.end) return;
  const PackedLayout& l = p.gate_up.layout;
  const int64_t ffn = p.down.layout.inputs;
  const int64_t shift = ffn % kPanel, first_up = ffn / kPanel;
  float* c = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + p.thread_scratch_bytes - 4 * l.panel_bytes();
  const int64_t pairs = shift == 0 && panels_at_once<F>(p.rows.blocks[blocks.begin]) == 4 ? 2 : 1;
  for (int64_t panel = begin; panel < end; panel += pairs) {
    const int64_t gates = lesser(pairs, end - panel);
    const int64_t ups = shift == 0 ? gates : lesser(2, l.panels() - first_up - panel);
    const typename F::Value* panels[4];
    for (int64_t i = 0; i < gates + ups; ++i)
      panels[i] =
          panel_of<F>(p.gate_up, blocks.group, i < gates ? panel + i : first_up + panel + i - gates,
                      buffer + i * l.panel_bytes());
    constexpr int64_t ldc = 4 * kPanel;
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const RowBlock& block = p.rows.blocks[b];
      multiply<F>(packed_block<F>(p.packed_x, block, l.steps()), panels,
                  static_cast<int>(gates + ups), l.steps(), c, ldc);
      for (int64_t i = 0; i < gates; ++i)
        store_activations<F>(c + i * kPanel, c + (gates + i) * kPanel + shift, ldc, block,
                             (panel + i) * kPanel, ffn, p.packed_h);
    }
  }
}

// y[token][column .. column + columns) from the sums of its slots, added in slot order.
template <class Y>
void combine(const ExpertProblem& p, const float* sums, int64_t lds, int64_t column,
             int64_t columns) {
  Y* y = static_cast<Y*>(p.y) + column;
  const int64_t width = p.down.layout.outputs;
  for (int64_t t = 0; t < p.tokens; ++t, y += width)
    for (int64_t j = 0; j < columns; j += 16) {
      f32x16 acc = f32x16::zero();
      for (int64_t k = 0; k < p.slots; ++k) {
        const int64_t pair = t * p.slots + k;
        const float* from = sums + (p.position ? p.position[pair] : pair) * lds + j;
        const f32x16 weight = f32x16::set1(p.weights ? p.weights[pair] : 1.f);
        acc = fma(weight, f32x16::load(from), acc);
      }
      if (columns - j >= 16)
        acc.store(y + j);
      else
        acc.store_n(y + j, static_cast<int>(columns - j));
    }
}

// Columns of the panels [begin, end) of y, for every expert: whole tokens can then be summed
// without another thread's results.
template <class F>
void down_job(const ExpertProblem& p, int64_t begin, int64_t end, char* scratch) {
  const PackedLayout& l = p.down.layout;
  const int64_t lds = (end - begin) * kPanel;
  float* sums = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + p.thread_scratch_bytes - 4 * l.panel_bytes();
  for (int64_t g = 0; g < p.rows.groups; ++g) {
    const int64_t block_begin = p.rows.group_first[g], block_end = p.rows.group_first[g + 1];
    if (block_begin == block_end) continue;
    for (int64_t panel = begin; panel < end; panel += 4) {
      const int64_t count = lesser(4, end - panel);
      const typename F::Value* panels[4];
      for (int64_t i = 0; i < count; ++i)
        panels[i] = panel_of<F>(p.down, g, panel + i, buffer + i * l.panel_bytes());
      for (int64_t b = block_begin; b < block_end; ++b) {
        const RowBlock& block = p.rows.blocks[b];
        multiply<F>(packed_block<F>(p.packed_h, block, l.steps()), panels, static_cast<int>(count),
                    l.steps(), sums + block.first_row * lds + (panel - begin) * kPanel, lds);
      }
    }
  }
  const int64_t column = begin * kPanel, columns = lesser(lds, l.outputs - column);
  if (p.y_bf16)
    combine<bf16>(p, sums, lds, column, columns);
  else
    combine<float>(p, sums, lds, column, columns);
}

template <class F>
void forward(const ExpertProblem& p) {
  const Rows& rows = p.rows;
  const PackedLayout &up = p.gate_up.layout, &down = p.down.layout;
  const int64_t ffn_panels = (down.inputs + kPanel - 1) / kPanel;
  const int64_t pack_jobs = rows.count * rows.most_tiles;
  const int64_t pieces = (ffn_panels + p.ffn_panels_per_job - 1) / p.ffn_panels_per_job;
  const int64_t gate_up_jobs = pieces * range_count(rows, p.gate_up);
  const int64_t down_jobs = (down.panels() + p.width_panels_per_job - 1) / p.width_panels_per_job;
  const int64_t work = row_count(rows) * up.outputs * up.inputs;
#pragma omp parallel num_threads(p.threads) if (work >= kWorkGrain)
  {
    char* scratch = p.thread_scratch + omp_get_thread_num() * p.thread_scratch_bytes;
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < pack_jobs; ++job)
      pack_rows<F>(p.x, rows.blocks[job / rows.most_tiles], job % rows.most_tiles, up.inputs,
                   up.steps(), p.packed_x);
#pragma omp for schedule(dynamic, 1)
    for (int64_t job = 0; job < gate_up_jobs; ++job) {
      const int64_t begin = job % pieces * p.ffn_panels_per_job;
      gate_up_job<F>(p, block_range(rows, p.gate_up, job / pieces), begin,
                     lesser(begin + p.ffn_panels_per_job, ffn_panels), scratch);
    }
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < down_jobs; ++job) {
      const int64_t begin = job * p.width_panels_per_job;
      down_job<F>(p, begin, lesser(begin + p.width_panels_per_job, down.panels()), scratch);
    }
  }
}

template <class T>
void swiglu_rows(const SwigluProblem& p) {
  parallel_for(p.rows, p.rows * p.ffn, kGrain, [&](int64_t row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * p.x_stride;
    T* y = static_cast<T*>(p.y) + row * p.ffn;
    int64_t j = 0;
    for (; j + 16 <= p.ffn; j += 16)
      swiglu(f32x16::load(gate + j), f32x16::load(gate + p.ffn + j)).store(y + j);
    if (j < p.ffn) {
      const int n = static_cast<int>(p.ffn - j);
      swiglu(f32x16::load_n(gate + j, n), f32x16::load_n(gate + p.ffn + j, n)).store_n(y + j, n);
    }
  });
}

}  // namespace

extern const ExpertKernels expert_kernels = {
    swiglu_rows<float>,
    swiglu_rows<bf16>,
    {forward<Bf16Format>, forward<F32Format>},
};

}  // namespace mn::MN_ISA
