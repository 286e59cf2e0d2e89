// The log-softmax of a row of logits, with one order of every sum: what the sampler reports for a
// token and what training computes for it have the same bits.
//
//   per chunk of 1024 ids   m_c, the largest logit, and s_c = sum of exp((x - m_c) / T), the terms
//   in
//                           float32, their sum in 16 double lanes
//   per row                 top = max m_c, total = sum over chunks, ascending, of
//                           s_c exp((m_c - top) / T), in double
//   log p = (x - top) / T - log(total), rounded once
//
// A chunk needs nothing of the others, so chunks may be summed in any order and by any thread.
#pragma once

#include "simd/f64.h"
#include "simd/softmax_chunk.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE int lanes_left(int64_t n, int64_t i) { return n - i < 16 ? static_cast<int>(n - i) : 16; }
MN_INLINE uint32_t first_lanes(int n) { return n >= 16 ? 0xffffu : (1u << n) - 1; }

// exp((x - top) * scale): the weight of a logit relative to one of weight 1.
struct Weigh {
  f32x16 top, scale;
  Weigh(float top, float scale) : top(f32x16::set1(top)), scale(f32x16::set1(scale)) {}
  MN_INLINE f32x16 operator()(f32x16 x) const { return exp((x - top) * scale); }
};

// 1 / T, finite: (x - top) / T must stay 0 for the largest logit.
MN_INLINE float inverse_temperature(float t) {
  const float inverse = 1.f / t;
  return inverse < __FLT_MAX__ ? inverse : __FLT_MAX__;
}

template <class X>
MN_INLINE f32x16 load_or_low(const X* x, int lanes) {
  return select(first_lanes(lanes), f32x16::load_n(x, lanes), f32x16::set1(-__builtin_inff()));
}

// The 16 column maxima of logits [0, n). A NaN is passed over here; it makes the sum NaN.
template <class X>
f32x16 chunk_maxima(const X* x, int64_t n) {
  f32x16 best[4];
  for (f32x16& b : best) b = f32x16::set1(-__builtin_inff());
  int64_t i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; ++j) best[j] = max(f32x16::load(x + i + 16 * j), best[j]);
  for (; i < n; i += 16) best[0] = max(load_or_low(x + i, lanes_left(n, i)), best[0]);
  return max(max(best[0], best[1]), max(best[2], best[3]));
}

// What the weights of a chunk are relative to: its largest logit, or 0 where all are -inf.
MN_INLINE float chunk_base(float largest) { return largest > -__builtin_inff() ? largest : 0.f; }

template <class X>
double chunk_sum(const X* x, int64_t n, const Weigh& weigh) {
  f64x16 sum = f64x16::zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = add(sum, weigh(f32x16::load(x + i)));
  if (i < n) sum = add(sum, weigh(load_or_low(x + i, static_cast<int>(n - i))));
  return reduce_add(sum);
}

// The weight in its row of what weighs 1 in its chunk.
MN_INLINE double chunk_weight(float largest, float top, float scale) {
  if (!(largest > -__builtin_inff())) return 0;
  return __builtin_exp((static_cast<double>(largest) - static_cast<double>(top)) *
                       static_cast<double>(scale));
}

MN_INLINE double log_probability(float x, float top, double total, float temperature) {
  return (static_cast<double>(x) - static_cast<double>(top)) / static_cast<double>(temperature) -
         __builtin_log(total);
}

}  // namespace
}  // namespace mn::MN_ISA
