// The online softmax of a tile of rows, one block of 64 keys at a time, in units of log2.
#pragma once

#include "attention/tile.h"
#include "simd/rows.h"

namespace mn::MN_ISA {
namespace {

// The maximum of no scores: finite, so that the difference of two of them is 0 and not NaN.
constexpr float kNoScore = -3.0e38f;
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

// 2^x for x <= 0 (a rounding error above is fine), relative error below 2e-7; exactly 1 at 0,
// exactly 0 below 2^-126 and at -inf; NaN stays.
MN_INLINE f32x16 exp2_weight(f32x16 x) {
  const f32x16 n = round_to_integer(x), r = x - n;
  f32x16 p = f32x16::set1(1.326469880e-3f);
  p = fma(p, r, f32x16::set1(9.671508823e-3f));
  p = fma(p, r, f32x16::set1(5.550733776e-2f));
  p = fma(p, r, f32x16::set1(2.402224215e-1f));
  p = fma(p, r, f32x16::set1(6.931469776e-1f));
  p = fma(p, r, f32x16::set1(1.f));
  return select(less_mask(x, f32x16::set1(-126.f)), f32x16::zero(), scale_by_power(p, n));
}

// The keys [lo, hi) that a row sees.
struct RowRange {
  int64_t lo, hi;
};

// Lanes of the group that starts at `position` which lie in the range.
MN_INLINE uint32_t visible_lanes(const RowRange& range, int64_t position) {
  const int64_t lo = range.lo - position, hi = range.hi - position;
  const uint32_t below = lo <= 0 ? 0u : lo >= 16 ? 0xffffu : (1u << lo) - 1;
  const uint32_t up_to = hi <= 0 ? 0u : hi >= 16 ? 0xffffu : (1u << hi) - 1;
  return up_to & ~below;
}

// A run of keys that goes on, of up to kTileRows rows; lane r of m is row r.
struct Run {
  float m[16];             // maximum so far, log2 units
  float l[kTileRows][16];  // sums of weights by key lane
};

MN_INLINE void start(Run& run) {
  f32x16::set1(kNoScore).store(run.m);
  for (auto& l : run.l) f32x16::zero().store(l);
}

// Scores of keys that a row does not see become -inf.
MN_INLINE void mask_scores(int rows, float* scores, int64_t score_stride, int groups,
                           int64_t position, const RowRange* ranges) {
  uint32_t seen[kBlockGroups];
  for (int r = 0; r < rows; ++r) {
    // The heads of one token see the same keys.
    if (r == 0 || ranges[r].lo != ranges[r - 1].lo || ranges[r].hi != ranges[r - 1].hi)
      for (int g = 0; g < groups; ++g)
        seen[g] = visible_lanes(ranges[r], position + g * kGroupKeys);
    float* s = scores + r * score_stride;
    for (int g = 0; g < groups; ++g)
      if (seen[g] != 0xffffu)
        select(seen[g], f32x16::load(s + 16 * g), f32x16::set1(-__builtin_inff()))
            .store(s + 16 * g);
  }
}

// Of every group of a block, the scales of its 16 keys and of its values; null: none.
struct GroupScales {
  const float* const* keys;
  const float* const* values;
};

// The blocks of a pass, whose first group stands at position `first`; a block is masked where some
// row does not see all of its keys: before full_lo or from full_hi on.
struct ScoreBlocks {
  ValueBlock* blocks;
  int count;
  int64_t first, full_lo, full_hi;
};

// Turns scores into weights, and brings the run up to date. The maxima of all blocks come first, so
// that they need not wait for one another; R is `rows`, or 0 where that is no constant.
template <bool kScaled, int R, class T>
void softmax_pass(int given_rows, float* scores, int64_t score_stride, float scale,
                  const ScoreBlocks& list, const RowRange* ranges, Run& run, T* weights,
                  int64_t weight_stride, const GroupScales& group_scales) {
  const int rows = R ? R : given_rows;
  const f32x16 scales = f32x16::set1(scale);
  float minus_m[kPassBlocks][16];
  f32x16 m = f32x16::load(run.m);
  for (int n = 0; n < list.count; ++n) {
    ValueBlock& block = list.blocks[n];
    float* first = scores + block.first * kGroupKeys;
    if constexpr (kScaled)
      for (int r = 0; r < rows; ++r)
        for (int g = 0; g < block.groups; ++g) {
          float* s = first + r * score_stride + 16 * g;
          (f32x16::load(s) * f32x16::load(group_scales.keys[block.first + g])).store(s);
        }
    const int64_t position = list.first + block.first * kGroupKeys;
    if (position < list.full_lo || position + block.groups * kGroupKeys > list.full_hi)
      mask_scores(rows, first, score_stride, block.groups, position, ranges);
    f32x16 top[8];
    for (int r = 0; r < 8; ++r) top[r] = f32x16::set1(kNoScore);
    for (int r = 0; r < rows; ++r) top[r] = f32x16::load(first + r * score_stride);
    for (int g = 1; g < block.groups; ++g)
      for (int r = 0; r < rows; ++r)
        top[r] = max(f32x16::load(first + r * score_stride + 16 * g), top[r]);
    const f32x16 next = max(reduce_max_rows(top) * scales, m);
    block.rescale = less_mask(m, next) != 0;
    exp2_weight(m - next).store(block.factor);
    (f32x16::zero() - next).store(minus_m[n]);
    m = next;
  }
  m.store(run.m);

  for (int r = 0; r < rows; ++r) {
    const float* s = scores + r * score_stride;
    T* w = weights + r * weight_stride;
    f32x16 sum = f32x16::load(run.l[r]);
    for (int n = 0; n < list.count; ++n) {
      const ValueBlock& block = list.blocks[n];
      const f32x16 shift = f32x16::set1(minus_m[n][r]);
      sum = sum * f32x16::set1(block.factor[r]);
      for (int g = block.first; g < block.first + block.groups; ++g) {
        const f32x16 p = exp2_weight(fma(f32x16::load(s + 16 * g), scales, shift));
        sum = sum + p;
        if constexpr (kScaled)
          (p * f32x16::load(group_scales.values[g])).store(w + 16 * g);
        else
          p.store(w + 16 * g);
      }
    }
    sum.store(run.l[r]);
  }
}

// Finished runs of up to kTileRows rows; lane r is row r. Their weighted values lie elsewhere.
struct Total {
  float m[16], l[16];
};

MN_INLINE Total finish(const Run& run, int rows) {
  f32x16 l[8];
  for (int r = 0; r < 8; ++r) l[r] = f32x16::zero();
  for (int r = 0; r < rows; ++r) l[r] = f32x16::load(run.l[r]);
  Total total;
  f32x16::load(run.m).store(total.m);
  reduce_add_rows(l).store(total.l);
  return total;
}

// total, o [rows][stride] += part, part_o. An empty part changes nothing.
MN_INLINE void merge(int rows, Total& total, float* o, const Total& part, const float* part_o,
                     int64_t dims, int64_t stride, int64_t part_stride) {
  const f32x16 m0 = f32x16::load(total.m), m1 = f32x16::load(part.m), m = max(m0, m1);
  const f32x16 keep = exp2_weight(m0 - m), take = exp2_weight(m1 - m);
  float keeps[16], takes[16];
  keep.store(keeps);
  take.store(takes);
  for (int r = 0; r < rows; ++r, o += stride, part_o += part_stride) {
    const f32x16 a = f32x16::set1(keeps[r]), b = f32x16::set1(takes[r]);
    for (int64_t i = 0; i < dims; i += 16)
      (f32x16::load(o + i) * a + f32x16::load(part_o + i) * b).store(o + i);
  }
  (f32x16::load(total.l) * keep + f32x16::load(part.l) * take).store(total.l);
  m.store(total.m);
}

// What the rows' weighted values are multiplied with, and their lse in natural units, when the
// sinks (-inf: none) have entered.
struct Normaliser {
  float factor[16], lse[16];
};

MN_INLINE Normaliser normalise(int rows, const Total& total, const float* sinks, bool want_lse) {
  const f32x16 old = f32x16::load(total.m), s = f32x16::load(sinks) * f32x16::set1(kLog2E);
  const f32x16 m = max(s, old), kept = exp2_weight(old - m);
  const f32x16 l = f32x16::load(total.l) * kept + exp2_weight(s - m);
  float ms[16], ls[16];
  m.store(ms);
  l.store(ls);
  Normaliser n;
  (kept / l).store(n.factor);
  for (int r = 0; r < rows; ++r) {
    if (ls[r] == 0.f) n.factor[r] = 0.f;
    // Without keys the sink is all there is, and stays as it was given.
    if (want_lse) n.lse[r] = total.l[r] == 0.f ? sinks[r] : (ms[r] + __builtin_log2f(ls[r])) * kLn2;
  }
  return n;
}

}  // namespace
}  // namespace mn::MN_ISA
