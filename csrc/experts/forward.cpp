// Gather, gate and up products, SwiGLU, down product, and the sum over a token's slots: one
// parallel region, compiled once per ISA level.
#include "experts/problem.h"
#include "experts/slot_sum.h"
#include "experts/swiglu.h"
#include "gemm/coded_rows.h"
#include "gemm/store.h"
#include "runtime/parallel.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 15;      // elements below which one thread is faster
constexpr int64_t kWorkGrain = 1 << 18;  // multiply-adds, likewise

// Sums of a gate panel and the up panel of the same columns, in the rows' own order.
template <class F>
void save_gate_up(const float* gate, const float* up, int64_t ldc, const RowBlock& block,
                  int64_t column, int64_t ffn, void* saved) {
  using Value = typename F::Value;
  Value* to = static_cast<Value*>(saved) + block.first_row * 2 * ffn + column;
  const int64_t columns = lesser(kPanel, ffn - column);
  store_rows(gate, ldc, block.rows, columns, to, 2 * ffn);
  store_rows(up, ldc, block.rows, columns, to + ffn, 2 * ffn);
}

// Activations of some blocks of an expert for the ffn panels [begin, end). A gate panel and the up
// panel of the same columns are computed side by side; where ffn is no multiple of a panel, the up
// columns lie across two panels.
template <class F>
void gate_up_job(const ExpertProblem& p, const BlockRange& blocks, int64_t begin, int64_t end,
                 char* scratch) {
  if (blocks.begin == blocks.end) return;
  const PackedLayout& l = p.gate_up.layout;
  const Rows& rows = p.down.rows;
  const int64_t ffn = p.down.w.layout.inputs;
  const int64_t shift = ffn % kPanel, first_up = ffn / kPanel;
  constexpr int64_t ldc = 4 * kPanel;
  float* c = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + p.work.thread_scratch_bytes - 4 * l.panel_bytes();
  const bool two = !p.gate_up.packed || panels_at_once<F>(rows.blocks[blocks.begin]) > 1;
  const int64_t pairs = shift == 0 && two ? 2 : 1;
  const bool expert_ends = end == first_up && blocks.end < rows.count;
  for (int64_t panel = begin; panel < end; panel += pairs) {
    const int64_t gates = lesser(pairs, end - panel);
    const int64_t ups = shift == 0 ? gates : lesser(2, l.panels() - first_up - panel);
    const void* next = panel + gates == end && expert_ends
                           ? panel_ahead(p.gate_up, rows.blocks[blocks.end].group, 0)
                           : panel_ahead(p.gate_up, blocks.group, panel + gates);
    const typename F::Value* panels[4];
    for (int64_t i = 0; i < gates + ups; ++i)
      panels[i] =
          panel_of<F>(p.gate_up, blocks.group, i < gates ? panel + i : first_up + panel + i - gates,
                      buffer + i * l.panel_bytes());
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
      const RowBlock& block = rows.blocks[b];
      multiply_panels<F>(l, packed_block<F>(p.packed_x, block, row_steps<F>(l)), panels,
                         gates + ups, c, ldc, next);
      for (int64_t i = 0; i < gates; ++i) {
        const float *gate = c + i * kPanel, *up = c + (gates + i) * kPanel + shift;
        const int64_t column = (panel + i) * kPanel;
        store_activations<F>(gate, up, ldc, block, column, p.down.w.layout, p.packed_h);
        if constexpr (!Coded<F>)  // codes have no backward
          if (p.saved) save_gate_up<F>(gate, up, ldc, block, column, ffn, p.saved);
      }
    }
  }
}

template <class F>
void forward(const ExpertProblem& p) {
  const Rows& rows = p.down.rows;
  const Work& work = p.work;
  const PackedLayout &up = p.gate_up.layout, &down = p.down.w.layout;
  const int64_t ffn_panels = (down.inputs + kPanel - 1) / kPanel;
  const int64_t pack_jobs = rows.count * rows.most_tiles;
  const int64_t pieces = (ffn_panels + work.ffn_panels_per_job - 1) / work.ffn_panels_per_job;
  const int64_t gate_up_jobs = pieces * range_count(rows, p.gate_up);
  const int64_t width = work.width_panels_per_job;
  const int64_t down_jobs = (down.panels() + width - 1) / width;
  const int64_t sum_pieces =
      (down.panels() + work.sum_panels_per_job - 1) / work.sum_panels_per_job;
  const int64_t cost = row_count(rows) * up.outputs * up.inputs;
  JobShares gate_up_shares(gate_up_jobs, work.threads);
  JobShares down_shares(p.down.products ? rows.count * sum_pieces : down_jobs, work.threads);
  parallel_region(work.threads, cost, kWorkGrain, [&](const Team& team) {
    char* scratch = work.thread_scratch + team.thread() * work.thread_scratch_bytes;
    team.share(pack_jobs, [&](int64_t job) {
      pack_block_tile<F>(p.x, rows.blocks[job / rows.most_tiles], job % rows.most_tiles, up,
                         p.packed_x);
    });
    team.share(gate_up_shares, [&](int64_t job) {
      const int64_t begin = job % pieces * work.ffn_panels_per_job;
      gate_up_job<F>(p, block_range(rows, p.gate_up, job / pieces), begin,
                     lesser(begin + work.ffn_panels_per_job, ffn_panels), scratch);
    });
    if (p.down.products == nullptr) {
      team.share_last(down_shares, [&](int64_t job) {
        slot_sum_job<F>(p.down, job * width, lesser((job + 1) * width, down.panels()), scratch);
      });
      return;
    }
    team.share(down_shares, [&](int64_t job) {
      const int64_t begin = job % sum_pieces * work.sum_panels_per_job;
      slot_product_job<F>(p.down, job / sum_pieces, begin,
                          lesser(begin + work.sum_panels_per_job, down.panels()));
    });
    team.share_last(p.down.tokens, [&](int64_t t) {
      combine(p.down, p.down.products, product_stride(down), 0, down.outputs, t, t + 1);
    });
  });
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

template <class T>
void swiglu_grad_rows(const SwigluGradProblem& p) {
  parallel_for(p.rows, p.rows * p.ffn, kGrain, [&](int64_t row) {
    const T* gate = static_cast<const T*>(p.gate_up) + row * 2 * p.ffn;
    const T* dy = static_cast<const T*>(p.dy) + row * p.ffn;
    T* d = static_cast<T*>(p.d_gate_up) + row * 2 * p.ffn;
    for (int64_t j = 0; j < p.ffn; j += 16) {
      const int n = static_cast<int>(lesser(16, p.ffn - j));
      const SwigluGrad grad =
          swiglu_grad(f32x16::load_n(gate + j, n), f32x16::load_n(gate + p.ffn + j, n),
                      f32x16::load_n(dy + j, n));
      grad.gate.store_n(d + j, n);
      grad.up.store_n(d + p.ffn + j, n);
    }
  });
}

}  // namespace

extern const ExpertKernels expert_kernels = {
    swiglu_rows<float>,
    swiglu_rows<bf16>,
    swiglu_grad_rows<float>,
    swiglu_grad_rows<bf16>,
    {forward<Bf16Format>, forward<F32Format>, forward<CodedBf16>, forward<CodedF32>,
     forward<CodedQuantised>},
};

}  // namespace mn::MN_ISA
