// A tile of rows of the backward pass: its queries and output gradients in the two forms that the
// products read, and the memory it works in.
#pragma once

#include "attention/backward_problem.h"
#include "attention/product.h"
#include "attention/slice.h"
#include "simd/transpose.h"

namespace mn::MN_ISA {
namespace {

// Rows of weights are not a power of two apart, or they would alias.
constexpr int64_t kWeightPadding = 32;

// Up to 64 consecutive rows.
struct Panel {
  int64_t rows;
  int64_t lo, hi;            // keys that some row sees ...
  int64_t full_lo, full_hi;  // ... and that all rows see
  bool seen;                 // its dq has begun
};

template <class T>
struct BackwardTile {
  const BackwardProblem* p;
  const BackwardSequence* sequence;
  const BackwardJob* job;
  int64_t group;      // query heads of the kv head
  int64_t first_row;  // of the sequence's rows, token by token
  int64_t rows, panel_count;
  int64_t weight_stride;
  Panel* panels;
  KeyRange* ranges;          // [rows]
  T *row_q, *row_dout;       // [64][padded]: one panel's rows, zero padded
  T *lane_q, *lane_dout;     // rows are columns: [panel][padded / W][64][W]
  T *depth_q, *depth_dout;   // rows are depth: [padded / 64][tile rows / W][64][W]
  float* dq;                 // [panel][padded_qk][64]
  float *minus_lse, *delta;  // [rows], the former in log2 units
  float *lo, *hi;            // [64]: ranges of one panel within one block
  float *s, *dp;             // [64 keys][64 rows] of one panel
  T *weights, *ds;           // [64 keys][weight_stride]
  T* ds_pairs;               // one panel's ds: [64 / W][64][W]
  double* dsink;             // [group]
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class T>
int64_t carve(BackwardTile<T>& t, const BackwardProblem& p, char* base) {
  Carver c{base};
  const int64_t rows = p.tile_rows, panels = rows / kPanelRows;
  const int64_t qk = round_up(p.padded_qk, kPanelColumns), v = round_up(p.padded_v, kPanelColumns);
  t.weight_stride = rows + kWeightPadding;
  t.panels = c.take<Panel>(panels);
  t.ranges = c.take<KeyRange>(rows);
  t.row_q = c.take<T>(kPanelRows * p.padded_qk);
  t.row_dout = c.take<T>(kPanelRows * p.padded_v);
  t.lane_q = c.take<T>(rows * p.padded_qk);
  t.lane_dout = c.take<T>(rows * p.padded_v);
  t.depth_q = c.take<T>(rows * qk);
  t.depth_dout = c.take<T>(rows * v);
  t.dq = c.take<float>(rows * p.padded_qk);
  t.minus_lse = c.take<float>(rows);
  t.delta = c.take<float>(rows);
  t.lo = c.take<float>(kPanelRows);
  t.hi = c.take<float>(kPanelRows);
  t.s = c.take<float>(kBlockKeys * kPanelRows);
  t.dp = c.take<float>(kBlockKeys * kPanelRows);
  t.weights = c.take<T>(kBlockKeys * t.weight_stride);
  t.ds = c.take<T>(kBlockKeys * t.weight_stride);
  t.ds_pairs = c.take<T>(kBlockKeys * kPanelRows);
  t.dsink = c.take<double>(p.q_heads / p.kv_heads);
  return c.used;
}

template <class T>
MN_INLINE void copy_padded(const T* src, int64_t dim, int64_t padded, T* dst) {
  std::memcpy(dst, src, static_cast<size_t>(dim) * sizeof(T));
  std::memset(dst + dim, 0, static_cast<size_t>(padded - dim) * sizeof(T));
}

template <class T>
const T* zeros(T* row, int64_t padded) {
  std::memset(row, 0, static_cast<size_t>(padded) * sizeof(T));
  return row;
}

// The row where it is, or a copy that is padded with zeros.
template <class T>
const T* padded_row(const T* src, int64_t dim, int64_t padded, T* copy) {
  if (dim == padded) return src;
  copy_padded(src, dim, padded, copy);
  return copy;
}

// rows [dim] to [dim / W][64][W], `count` rows, a multiple of 16.
template <class T>
void rows_to_lanes(const T* const* rows, int64_t dim, int64_t count, T* lanes) {
  constexpr int64_t kPerWord = 4 / sizeof(T);
  const int64_t words = dim / kPerWord;
  for (int64_t r = 0; r < count; r += 16)
    for (int64_t w = 0; w < words; w += 16) {
      const int n = words - w < 16 ? static_cast<int>(words - w) : 16;
      u32x16 x[16];
      for (int i = 0; i < 16; ++i) x[i] = u32x16::load_n(rows[r + i] + w * kPerWord, n);
      transpose(x);
      for (int i = 0; i < n; ++i) x[i].store_n(lanes + ((w + i) * kPanelRows + r) * kPerWord, 16);
    }
}

// rows [dim] to [dim / 64][panel / W][64][W], `count` rows, a multiple of 16.
MN_INLINE void rows_to_depth(const float* const* rows, int64_t dim, int64_t count, int64_t panel,
                             float* depth) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t d = 0; d < dim; d += 16)
      f32x16::load(rows[r] + d)
          .store(depth + d / kPanelColumns * panel + r * kPanelColumns + d % kPanelColumns);
}
MN_INLINE void rows_to_depth(const bf16* const* rows, int64_t dim, int64_t count, int64_t panel,
                             bf16* depth) {
  for (int64_t r = 0; r < count; r += 2)
    for (int64_t d = 0; d < dim; d += 16)
      interleave(rows[r] + d, rows[r + 1] + d,
                 depth + d / kPanelColumns * panel + r * kPanelColumns + d % kPanelColumns * 2);
}

template <class T>
float dot(const T* a, const T* b, int64_t dim) {
  f32x16 sum = f32x16::zero();
  int64_t d = 0;
  for (; d + 16 <= dim; d += 16) sum = fma(f32x16::load(a + d), f32x16::load(b + d), sum);
  const int n = static_cast<int>(dim - d);
  if (n) sum = fma(f32x16::load_n(a + d, n), f32x16::load_n(b + d, n), sum);
  return reduce_add(sum);
}

// dsink -= exp(sink - lse) delta, row by row in order.
template <class T>
void add_sinks(BackwardTile<T>& t, int64_t row, int64_t rows) {
  const BackwardProblem& p = *t.p;
  float x[16], kept[16];
  f32x16::set1(-__builtin_inff()).store(x);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t h = t.job->kv_head * t.group + (t.first_row + row + r) % t.group;
    // Of a row that sees the sink alone the difference is exactly 0.
    if (p.sink[h] != -__builtin_inff()) x[r] = p.sink[h] * kLog2E + t.minus_lse[row + r];
  }
  exp2_weight(f32x16::load(x)).store(kept);
  for (int64_t r = 0; r < rows; ++r)
    t.dsink[(t.first_row + row + r) % t.group] -=
        static_cast<double>(kept[r]) * static_cast<double>(t.delta[row + r]);
}

// Rows [64 * index, ..) of the tile.
template <class T>
void load_panel(BackwardTile<T>& t, int64_t index) {
  const BackwardProblem& p = *t.p;
  const BackwardSequence& s = *t.sequence;
  const int64_t start = index * kPanelRows;
  Panel& panel = t.panels[index];
  panel.rows = t.rows - start < kPanelRows ? t.rows - start : kPanelRows;
  panel.lo = panel.full_lo = panel.hi = 0;
  panel.full_hi = INT64_MAX;
  panel.seen = false;
  const int64_t padded = round_up(panel.rows, 16);
  const T *q_rows[kPanelRows], *dout_rows[kPanelRows];
  for (int64_t r = 0; r < padded; ++r) {
    const int64_t row = start + r;
    KeyRange range{0, 0};
    // A row of padding has weights of exp(-inf).
    float minus_lse = -__builtin_inff(), delta = 0.f;
    if (r >= panel.rows) {
      q_rows[r] = zeros(t.row_q + r * p.padded_qk, p.padded_qk);
      dout_rows[r] = zeros(t.row_dout + r * p.padded_v, p.padded_v);
    } else {
      const int64_t token = (t.first_row + row) / t.group;
      const int64_t h = t.job->kv_head * t.group + (t.first_row + row) % t.group;
      const T* q = static_cast<const T*>(s.q) + token * p.q_token_stride + h * p.q_head_stride;
      const T* dout =
          static_cast<const T*>(s.dout) + token * p.dout_token_stride + h * p.dout_head_stride;
      q_rows[r] = padded_row(q, p.dim_qk, p.padded_qk, t.row_q + r * p.padded_qk);
      dout_rows[r] = padded_row(dout, p.dim_v, p.padded_v, t.row_dout + r * p.padded_v);
      const T* out = static_cast<const T*>(s.out) + (token * p.q_heads + h) * p.dim_v;
      delta = dot(dout, out, p.dim_v);
      if (s.dlse) delta -= s.dlse[h * p.lse_head_stride + token];
      minus_lse = -s.lse[h * p.lse_head_stride + token] * kLog2E;
      range = visible_keys(s.first_position + token, s.keys, p.causal, p.window);
      if (range.hi > range.lo) {
        if (panel.hi == panel.lo || range.lo < panel.lo) panel.lo = range.lo;
        if (range.hi > panel.hi) panel.hi = range.hi;
      }
      if (range.lo > panel.full_lo) panel.full_lo = range.lo;
      if (range.hi < panel.full_hi) panel.full_hi = range.hi;
    }
    t.ranges[row] = range;
    t.minus_lse[row] = minus_lse;
    t.delta[row] = delta;
  }
  if (t.p->sink)
    for (int64_t r = 0; r < panel.rows; r += 16)
      add_sinks(t, start + r, panel.rows - r < 16 ? panel.rows - r : 16);
  rows_to_lanes(q_rows, p.padded_qk, padded, t.lane_q + start * p.padded_qk);
  rows_to_lanes(dout_rows, p.padded_v, padded, t.lane_dout + start * p.padded_v);
  const int64_t depth_panel = p.tile_rows * kPanelColumns;
  rows_to_depth(q_rows, p.padded_qk, padded, depth_panel, t.depth_q + start * kPanelColumns);
  rows_to_depth(dout_rows, p.padded_v, padded, depth_panel, t.depth_dout + start * kPanelColumns);
}

// The finished dq of a panel, to the tokens' rows.
template <class T>
void store_panel(const BackwardTile<T>& t, int64_t index) {
  const BackwardProblem& p = *t.p;
  const int64_t start = index * kPanelRows, count = t.panels[index].rows;
  const float* dq = t.dq + start * p.padded_qk;
  const f32x16 scale = f32x16::set1(p.scale);
  T* rows[kPanelRows];
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = t.first_row + start + r, h = t.job->kv_head * t.group + row % t.group;
    rows[r] = static_cast<T*>(t.sequence->dq) + (row / t.group * p.q_heads + h) * p.dim_qk;
    if (!t.panels[index].seen) zeros(rows[r], p.dim_qk);
  }
  if (!t.panels[index].seen) return;
  for (int64_t d = 0; d < p.dim_qk; d += 16)
    for (int64_t r = 0; r < count; r += 16) {
      u32x16 x[16];
      for (int i = 0; i < 16; ++i) {
        x[i] = u32x16::load_n(dq + (d + i) * kPanelRows + r, 16);
        prefetch(dq + (d + 16 + i) * kPanelRows + r);
      }
      transpose(x);
      const int n = p.dim_qk - d < 16 ? static_cast<int>(p.dim_qk - d) : 16;
      for (int i = 0; i < 16 && r + i < count; ++i) {
        const f32x16 values = as_floats(x[i]) * scale;
        if (n == 16)
          values.store(rows[r + i] + d);
        else
          values.store_n(rows[r + i] + d, n);
      }
    }
}

}  // namespace
}  // namespace mn::MN_ISA
