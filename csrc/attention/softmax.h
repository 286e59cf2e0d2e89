// The online softmax of a tile of rows, one block of 64 keys at a time, in units of log2.
#pragma once

#include "attention/tile.h"

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

MN_INLINE float exp2_weight(float x) {
  float lanes[16];
  exp2_weight(f32x16::set1(x)).store(lanes);
  return lanes[0];
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

struct SoftmaxState {
  float m[kTileRows];      // maximum so far, log2 units
  float l[kTileRows][16];  // sums of weights by lane
};

// Turns the scores of `block` (its groups of this pass, the first at `position`) into weights, and
// brings m and l up to date. `masked`: some row does not see all of these keys.
template <class T>
void softmax_block(int rows, float* scores, int64_t score_stride, float scale, int64_t position,
                   bool masked, const RowRange* ranges, SoftmaxState& state, ValueBlock& block,
                   T* weights, int64_t weight_stride) {
  const int groups = block.groups;
  scores += block.first * kGroupKeys;
  weights += block.first * kGroupKeys;
  float change[16] = {};
  block.rescale = false;
  for (int r = 0; r < rows; ++r) {
    float* s = scores + r * score_stride;
    if (masked)
      for (int g = 0; g < groups; ++g) {
        const uint32_t seen = visible_lanes(ranges[r], position + g * kGroupKeys);
        if (seen != 0xffffu)
          select(seen, f32x16::load(s + 16 * g), f32x16::set1(-__builtin_inff())).store(s + 16 * g);
      }
    f32x16 top = f32x16::load(s);
    for (int g = 1; g < groups; ++g) top = max(f32x16::load(s + 16 * g), top);
    const float m = state.m[r], highest = reduce_max(top) * scale;
    const float next = highest > m ? highest : m;
    change[r] = m - next;
    block.rescale |= next != m;
    state.m[r] = next;
  }
  float factors[16];
  exp2_weight(f32x16::load(change)).store(factors);
  const f32x16 scales = f32x16::set1(scale);
  for (int r = 0; r < rows; ++r) {
    const float* s = scores + r * score_stride;
    T* w = weights + r * weight_stride;
    const f32x16 minus_m = f32x16::set1(-state.m[r]);
    f32x16 sum = f32x16::load(state.l[r]) * f32x16::set1(factors[r]);
    for (int g = 0; g < groups; ++g) {
      const f32x16 p = exp2_weight(fma(f32x16::load(s + 16 * g), scales, minus_m));
      sum = sum + p;
      p.store(w + 16 * g);
    }
    sum.store(state.l[r]);
    block.factor[r] = factors[r];
  }
}

// A finished run of keys of one row: maximum, sum and weighted values.
struct RowTotal {
  float m, l;
};

// total, o += part, part_o. Merging into no run at all copies; merging an empty run changes
// nothing.
MN_INLINE void merge_run(RowTotal& total, float* o, const RowTotal& part, const float* part_o,
                         int64_t dims) {
  const float m = part.m > total.m ? part.m : total.m;
  const float a = exp2_weight(total.m - m), b = exp2_weight(part.m - m);
  const f32x16 keep = f32x16::set1(a), take = f32x16::set1(b);
  for (int64_t i = 0; i < dims; i += 16)
    (f32x16::load(o + i) * keep + f32x16::load(part_o + i) * take).store(o + i);
  total.l = total.l * a + part.l * b;
  total.m = m;
}

// Adds the sink, normalises and writes the row; lse (may be null) is in natural units.
template <class T>
void finish_row(const RowTotal& total, const float* o, const float* sink, int64_t dims, T* out,
                float* lse) {
  const float s = sink ? *sink * kLog2E : -__builtin_inff();
  const float m = s > total.m ? s : total.m;
  const float kept = exp2_weight(total.m - m);
  const float l = total.l * kept + (sink ? exp2_weight(s - m) : 0.f);
  const f32x16 factor = f32x16::set1(l == 0.f ? 0.f : kept / l);
  for (int64_t i = 0; i < dims; i += 16) {
    const f32x16 y = f32x16::load(o + i) * factor;
    if (dims - i >= 16)
      y.store(out + i);
    else
      y.store_n(out + i, static_cast<int>(dims - i));
  }
  if (!lse) return;
  if (total.l == 0.f)
    *lse = sink ? *sink : -__builtin_inff();
  else
    *lse = (m + __builtin_log2f(l)) * kLn2;
}

}  // namespace
}  // namespace mn::MN_ISA
