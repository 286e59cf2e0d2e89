// Register tiles of the attention kernels: scores of a few rows against groups of 16 keys, and the
// product of their probabilities with panels of 16 value dims. Included by kernel sources only.
//
// Every row has its own accumulators and walks head dims and keys in order, so a row's bits do not
// depend on which tile shape computes it.
#pragma once

#include "attention/ahead.h"
#include "attention/layout.h"
#include "simd/codes.h"

namespace mn::MN_ISA {
namespace {

// How keys and values of a storage type meet the rows: what rows are kept as, and whether every key
// and value has a scale.
template <class K>
struct Stored {
  using Row = K;
  static constexpr bool kScaled = false;
};
template <>
struct Stored<int8_code> {
  using Row = bf16;
  static constexpr bool kScaled = true;
};
template <>
struct Stored<e4m3_code> : Stored<int8_code> {};
template <class K>
using RowOf = typename Stored<K>::Row;

// One step of a dot product: a broadcast element (a pair but in float32) times 16 lanes.
template <class K>
struct Step {
  static constexpr int kWidth = 2;   // elements of a row that one step consumes
  static constexpr int kLanes = 32;  // elements of a packed operand
  using Row = bf16_pair;
  using Lanes = bf16x32;
  static MN_INLINE bf16_pair row(const bf16* p) { return bf16_pair::load(p); }
  static MN_INLINE bf16x32 lanes(const bf16* p) { return bf16x32::load(p); }
  template <class Code>
  static MN_INLINE bf16x32 lanes(const Code* p) {
    return widen_pairs(p);
  }
  static MN_INLINE f32x16 add(f32x16 acc, bf16_pair a, bf16x32 b) { return dot2(acc, a, b); }
};

template <>
struct Step<float> {
  static constexpr int kWidth = 1;
  static constexpr int kLanes = 16;
  using Row = f32x16;
  using Lanes = f32x16;
  static MN_INLINE f32x16 row(const float* p) { return f32x16::set1(*p); }
  static MN_INLINE f32x16 lanes(const float* p) { return f32x16::load(p); }
  static MN_INLINE f32x16 add(f32x16 acc, f32x16 a, f32x16 b) { return fma(a, b, acc); }
};

// Tile shapes by register file: rows x columns accumulators, the columns' operands, one broadcast.
constexpr int kTileRows = kVectorRegisters >= 32 ? 8 : 4;
constexpr int columns_for(int rows) {
  if (kVectorRegisters < 32) return rows <= 2 ? 2 : 1;
  if (MN_LEVEL == 2) return rows <= 4 ? 4 : 2;  // emulated pairs take two registers an operand
  return rows <= 4 ? 4 : 3;
}

// scores[r][16 * c ..] = q[r] . keys of group c, over `dims` in order.
template <class K, int R, int C>
MN_INLINE void score_columns(const RowOf<K>* q, int64_t q_stride, const K* const* keys,
                             int64_t dims, float* scores, int64_t score_stride, Ahead& ahead) {
  using S = Step<K>;
  f32x16 acc[R][C];
  const K* k[C];
  for (int c = 0; c < C; ++c) k[c] = keys[c];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = f32x16::zero();
  Ahead::Tile fetch(ahead, dims / S::kWidth);
  for (int64_t d = 0; d < dims; d += S::kWidth) {
    fetch.step();
    typename S::Lanes b[C];
    for (int c = 0; c < C; ++c) b[c] = S::lanes(k[c] + d * 16);
    for (int r = 0; r < R; ++r) {
      const typename S::Row a = S::row(q + r * q_stride + d);
      for (int c = 0; c < C; ++c) acc[r][c] = S::add(acc[r][c], a, b[c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c].store(scores + r * score_stride + 16 * c);
  fetch.finish();
}

template <class K, int R>
void score_rows(const RowOf<K>* q, int64_t q_stride, const K* const* keys, int64_t groups,
                int64_t dims, float* scores, int64_t score_stride, Ahead& ahead) {
  constexpr int kMax = columns_for(R);
  for (int64_t g = 0; g < groups;) {
    const int64_t left = groups - g;
    const K* const* k = keys + g;
    float* s = scores + 16 * g;
    // A lone column leaves the multipliers waiting for one another: split the last four as 2 + 2.
    if (kMax >= 3 && (left == 2 || left == kMax + 1)) {
      score_columns<K, R, (kMax >= 2 ? 2 : 1)>(q, q_stride, k, dims, s, score_stride, ahead);
      g += 2;
    } else if (left >= kMax) {
      score_columns<K, R, kMax>(q, q_stride, k, dims, s, score_stride, ahead);
      g += kMax;
    } else {
      score_columns<K, R, 1>(q, q_stride, k, dims, s, score_stride, ahead);
      g += 1;
    }
  }
}

// Blocks that all rows of a tile visit before the next ones: their keys and values stay in L2.
constexpr int64_t kPassBlocks = 8;

// One block's part of a value product.
struct ValueBlock {
  int first, groups;  // within the pass
  bool rescale;       // some factor is not 1
  float factor[16];   // exp(m - m') of every row
};

// A pass over values: its groups block by block. Keys before `lead` of the first group and from
// `trail` on of the last one are seen by no row; both are even.
template <class K>
struct ValuePass {
  const K* const* values;  // by group
  const ValueBlock* blocks;
  int block_count, groups;
  int lead, trail;
  bool fresh;  // no pass of this run came before
};

// out[r][16 * c ..] = (fresh ? 0 : out) then, block by block, * factor[r] + p[r] . values.
template <class K, int R, int C>
MN_INLINE void value_columns(const RowOf<K>* p, int64_t p_stride, const ValuePass<K>& pass,
                             const KvLayout& layout, int64_t panel_offset, float* out,
                             Ahead& ahead) {
  using S = Step<K>;
  const int64_t out_stride = layout.padded_v;
  f32x16 acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c)
      acc[r][c] = pass.fresh ? f32x16::zero() : f32x16::load(out + r * out_stride + 16 * c);
  const int64_t step = layout.value_step, panel = layout.value_panel;
  Ahead::Tile fetch(ahead, pass.groups * kGroupKeys / S::kWidth);
  for (int n = 0; n < pass.block_count; ++n) {
    const ValueBlock& block = pass.blocks[n];
    if (block.rescale)
      for (int r = 0; r < R; ++r) {
        const f32x16 factor = f32x16::set1(block.factor[r]);
        for (int c = 0; c < C; ++c) acc[r][c] = acc[r][c] * factor;
      }
    for (int g = block.first; g < block.first + block.groups; ++g) {
      const int begin = g == 0 ? pass.lead : 0;
      const int end = g == pass.groups - 1 ? pass.trail : static_cast<int>(kGroupKeys);
      const K* v = pass.values[g] + panel_offset + begin / S::kWidth * step;
      const RowOf<K>* weights = p + g * kGroupKeys;
      for (int j = begin; j < end; j += S::kWidth) {
        fetch.step();
        typename S::Lanes b[C];
        for (int c = 0; c < C; ++c) b[c] = S::lanes(v + c * panel);
        v += step;
        for (int r = 0; r < R; ++r) {
          const typename S::Row a = S::row(weights + r * p_stride + j);
          for (int c = 0; c < C; ++c) acc[r][c] = S::add(acc[r][c], a, b[c]);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c].store(out + r * out_stride + 16 * c);
  fetch.finish();
}

template <class K, int R>
void value_rows(const RowOf<K>* p, int64_t p_stride, const ValuePass<K>& pass,
                const KvLayout& layout, float* out, Ahead& ahead) {
  constexpr int kMax = columns_for(R);
  const int64_t panels = layout.padded_v / 16;
  for (int64_t c = 0; c < panels;) {
    const int64_t left = panels - c, offset = c * layout.value_panel;
    float* o = out + 16 * c;
    if (kMax >= 3 && (left == 2 || left == kMax + 1)) {
      value_columns<K, R, (kMax >= 2 ? 2 : 1)>(p, p_stride, pass, layout, offset, o, ahead);
      c += 2;
    } else if (left >= kMax) {
      value_columns<K, R, kMax>(p, p_stride, pass, layout, offset, o, ahead);
      c += kMax;
    } else {
      value_columns<K, R, 1>(p, p_stride, pass, layout, offset, o, ahead);
      c += 1;
    }
  }
}

// Steps of score_rows and value_rows over this many groups, to a tile's width.
template <class K>
MN_INLINE int64_t steps_of(int rows, int64_t groups, const KvLayout& layout) {
  const int64_t columns = columns_for(rows), width = Step<K>::kWidth;
  return ((groups + columns - 1) / columns * layout.padded_qk +
          (layout.padded_v / 16 + columns - 1) / columns * groups * kGroupKeys) /
         width;
}

// Calls f with the row count as a constant.
template <class F>
MN_INLINE void with_rows(int rows, const F& f) {
  switch (rows) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    default:
      break;
  }
  if constexpr (kTileRows == 8) {
    switch (rows) {
      case 5:
        return f.template operator()<5>();
      case 6:
        return f.template operator()<6>();
      case 7:
        return f.template operator()<7>();
      default:
        return f.template operator()<8>();
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
