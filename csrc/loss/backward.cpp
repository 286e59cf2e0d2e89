// Gradients of the hidden states and of the head, compiled once per ISA level. The vocabulary is
// taken slice by slice: the weights of a slice, kept by the forward pass or formed again, are
// turned into the gradients d of its logits, and these are used twice: dx += d W of the slice, and
// dW of the slice = d^T x, which is then complete.
#include <omp.h>

#include "gemm/weight_grad.h"
#include "loss/head.h"
#include "simd/log_softmax.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGroup = kLossGroup;
constexpr int64_t kPackRows = 64;  // rows of W read at a time while four panels are packed

MN_INLINE void add_ids(const LossBackward& p, int64_t row, int64_t first, int64_t n, float* d) {
  for (int64_t k = row * p.ids_per_row; k < (row + 1) * p.ids_per_row; ++k)
    if (p.ids[k] >= first && p.ids[k] < first + n) d[p.ids[k] - first] += p.scale * p.id_grads[k];
}

// In place: logits x [n] of ids from `first` on become their gradients.
MN_INLINE void gradient_row(const LossBackward& p, int64_t row, int64_t n, float* x,
                            const float* t) {
  const RowGradient& g = p.rows[row];
  const Weigh weigh(g.top, p.scale);
  const f32x16 scale = f32x16::set1(p.scale), weight = f32x16::set1(p.scale * g.inverse_total);
  const f32x16 a = f32x16::set1(g.a), b = f32x16::set1(g.b), top = weigh.top;
  const f32x16 teacher_top = f32x16::set1(t ? p.teacher_top[row] : 0.f);
  for (int64_t i = 0; i < n; i += 16) {  // the panels' lanes beyond n may hold anything
    const f32x16 logits = f32x16::load(x + i);
    f32x16 u = logits - top;
    if (t) u = u - (f32x16::load(t + i) - teacher_top);
    (weight * weigh(logits) * fma(b, u * scale, a)).store(x + i);
  }
}

// The same from the weights that were kept; b is 0.
template <class T>
MN_INLINE void kept_gradient_row(const LossBackward& p, int64_t row, int64_t first, int64_t n,
                                 float* x) {
  const RowGradient& g = p.rows[row];
  const int64_t chunk = first / kSoftmaxChunk, begin = chunk * kSoftmaxChunk;
  const int64_t ids = lesser(kSoftmaxChunk, p.head.w.layout.outputs - begin);
  const T* kept =
      static_cast<const T*>(p.dw) + begin * p.head.w.layout.inputs + row * ids + (first - begin);
  const double unit = chunk_weight(p.chunk_largest[chunk * p.count + row], g.top, p.scale);
  const f32x16 factor = f32x16::set1(static_cast<float>(
      unit * static_cast<double>(p.scale * g.inverse_total) * static_cast<double>(g.a)));
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) (factor * f32x16::load(kept + i)).store(x + i);
  if (i < n) (factor * f32x16::load_n(kept + i, lanes_left(n, i))).store(x + i);
}

// d of the ids [first, first + 128) of the slice that begins at `slice`. Blocks of rows from
// `formed` on have their logits formed again.
template <class F>
void gradient_job(const LossBackward& p, int64_t slice, int64_t first, int64_t formed,
                  char* scratch) {
  using Value = typename F::Value;
  const int64_t n = lesser(kGroup, p.head.w.layout.outputs - first);
  const int64_t panels = (n + kPanel - 1) / kPanel;
  float* x = reinterpret_cast<float*>(scratch);
  float* t = p.teacher.given() ? x + p.count * kGroup : nullptr;
  char* buffer = reinterpret_cast<char*>(x + p.count * kGroup * (t ? 2 : 1));
  if (formed < p.head.rows.count) logits(p.head, formed, first / kPanel, panels, x, kGroup, buffer);
  if (t) logits(p.teacher, 0, first / kPanel, panels, t, kGroup, buffer);
  Value* d = static_cast<Value*>(p.d) + first - slice;
  for (int64_t row = 0; row < p.count; ++row) {
    float* x_row = x + row * kGroup;
    if (row < p.kept_rows)
      kept_gradient_row<Value>(p, row, first, n, x_row);
    else
      gradient_row(p, row, n, x_row, t ? t + row * kGroup : nullptr);
    add_ids(p, row, first, n, x_row);
    store_rows(x_row, kGroup, 1, n, d + row * p.slice, p.slice);
  }
}

// Rows [first, first + n) of the head, plain.
template <class F>
MN_INLINE const typename F::Value* head_row(const LossBackward& p, int64_t slice, int64_t row) {
  const Weights& w = p.head.w;
  if (w.packed)
    return static_cast<const typename F::Value*>(p.unpacked) + (row - slice) * w.layout.inputs;
  return static_cast<const typename F::Value*>(w.data) + row * w.row_stride;
}

template <class F>
void unpack_job(const LossBackward& p, int64_t slice, int64_t panel) {
  const PackedLayout& l = p.head.w.layout;
  unpack_panel<F>(
      static_cast<const char*>(p.head.w.data) + (slice / kPanel + panel) * l.panel_bytes(),
      static_cast<int>(lesser(kPanel, l.outputs - slice - panel * kPanel)), l.inputs, l.steps(),
      static_cast<typename F::Value*>(p.unpacked) + panel * kPanel * l.inputs, l.inputs);
}

// dx[:, 128 columns] += d W[slice, 128 columns].
template <class F>
void input_job(const LossBackward& p, int64_t slice, int64_t ids, int64_t column, char* scratch) {
  using Value = typename F::Value;
  const int64_t width = p.head.w.layout.inputs;
  const int64_t columns = lesser(kGroup, width - column), panels = (columns + kPanel - 1) / kPanel;
  const int64_t steps = steps_of<F>(ids), panel_bytes = steps * kStepBytes;
  float* c = reinterpret_cast<float*>(scratch);
  char* buffer = scratch + p.most_block_rows * kGroup * 4;
  const Value* b[4];
  for (int64_t i = 0; i < panels; ++i)
    b[i] = reinterpret_cast<const Value*>(buffer + i * panel_bytes);
  for (int64_t row = 0; row < ids; row += kPackRows)
    for (int64_t i = 0; i < panels; ++i)
      pack_columns<F>([&](int64_t j) { return head_row<F>(p, slice, slice + row + j); },
                      lesser(kPackRows, ids - row), column + i * kPanel,
                      static_cast<int>(lesser(kPanel, columns - i * kPanel)),
                      buffer + i * panel_bytes + row / F::kDepth * kStepBytes);
  for (int64_t k = 0; k < p.head.rows.count; ++k) {
    const RowBlock& block = p.head.rows.blocks[k];
    multiply<F>(packed_block<F>(p.packed_d, block, steps), b, static_cast<int>(panels), steps, c,
                kGroup);
    for (int64_t r = 0; r < block.rows; ++r) {
      float* to = p.dx + (block.first_row + r) * width + column;
      for (int64_t j = 0; j < columns; j += 16) {
        const int lanes = lanes_left(columns, j);
        const f32x16 before = slice == 0 ? f32x16::zero() : f32x16::load_n(to + j, lanes);
        (before + f32x16::load(c + r * kGroup + j)).store_n(to + j, lanes);
      }
    }
  }
}

template <class F>
WeightGradProblem weight_problem(const LossBackward& p, const int64_t* rows, int64_t slice,
                                 int64_t ids) {
  constexpr bool bf = F::kDepth == 2;
  const int64_t width = p.head.w.layout.inputs;
  WeightGradProblem w{};
  w.dy = {p.d, p.slice, nullptr, bf};
  w.x = p.head.x;
  w.group_first = rows;
  w.groups = 1;
  w.outputs = ids;
  w.inputs = width;
  w.dw = static_cast<typename F::Value*>(p.dw) + slice * width;
  w.dw_bf16 = bf;
  w.packed_x = static_cast<char*>(p.packed_x);
  return w;
}

template <class F>
void pack_x_job(const LossBackward& p, const int64_t* rows, int64_t panel) {
  const WeightGradProblem w = weight_problem<F>(p, rows, 0, 0);
  const int64_t column = panel * kPanel;
  pack_columns<F>([&](int64_t i) { return source_row<F>(w.x, i); }, p.count, column,
                  static_cast<int>(lesser(kPanel, w.inputs - column)),
                  packed_panel<F>(w, 0, panel));
}

template <class F>
void backward(const LossBackward& p) {
  const PackedLayout& l = p.head.w.layout;
  const int64_t rows[2] = {0, p.count};
  const int64_t packs = pack_jobs(p.head), teacher_packs = pack_jobs(p.teacher);
  const int64_t x_panels = p.dw ? (l.inputs + kPanel - 1) / kPanel : 0;
  const int64_t groups = (l.inputs + kGroup - 1) / kGroup;
  int64_t formed = 0;  // the first block with a row that was not kept
  while (formed < p.head.rows.count &&
         p.head.rows.blocks[formed].first_row + p.head.rows.blocks[formed].rows <= p.kept_rows)
    ++formed;
#pragma omp parallel num_threads(p.threads)
  {
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t job = 0; job < packs + teacher_packs; ++job)
      job < packs ? pack_job(p.head, job) : pack_job(p.teacher, job - packs);
#pragma omp for schedule(dynamic, 1)
    for (int64_t panel = 0; panel < x_panels; ++panel) pack_x_job<F>(p, rows, panel);

    char* scratch = p.thread_scratch + omp_get_thread_num() * p.thread_scratch_bytes;
    for (int64_t slice = 0; slice < l.outputs; slice += p.slice) {
      const int64_t ids = lesser(p.slice, l.outputs - slice);
      const int64_t unpacks = p.dx && p.head.w.packed ? (ids + kPanel - 1) / kPanel : 0;
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t panel = 0; panel < unpacks; ++panel) unpack_job<F>(p, slice, panel);
#pragma omp for schedule(dynamic, 1)
      for (int64_t first = slice; first < slice + ids; first += kGroup)
        gradient_job<F>(p, slice, first, formed, scratch);

      const RowSource d{p.d, p.slice, nullptr, F::kDepth == 2};
      const int64_t tiles = p.dx ? packs : 0;
#pragma omp for schedule(dynamic, 1)
      for (int64_t job = 0; job < tiles; ++job)
        pack_rows<F>(d, p.head.rows.blocks[job / p.head.rows.most_tiles],
                     job % p.head.rows.most_tiles, ids, steps_of<F>(ids), p.packed_d);
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t group = 0; group < (p.dx ? groups : 0); ++group)
        input_job<F>(p, slice, ids, group * kGroup, scratch);
      const WeightGradProblem w = weight_problem<F>(p, rows, slice, ids);
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < (p.dw ? p.slice_block_count : 0); ++b) {
        RowBlock block = p.slice_blocks[b];
        if (block.first_row >= ids) continue;
        block.rows = static_cast<int32_t>(lesser(block.rows, ids - block.first_row));
        weight_grad_job<F, typename F::Value>(w, 0, block, scratch);
      }
    }
    if (p.dx_bf16) {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < p.count; ++row)
        store_rows(p.dx + row * l.inputs, l.inputs, 1, l.inputs,
                   static_cast<bf16*>(p.dx_bf16) + row * l.inputs, l.inputs);
    }
  }
}

}  // namespace

extern const LossBackwardKernels loss_backward_kernels = {
    {backward<Bf16Format>, backward<F32Format>},
};

}  // namespace mn::MN_ISA
