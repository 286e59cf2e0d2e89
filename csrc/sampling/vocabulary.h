// Passes over a row of logits: maxima and sums of exponentials per chunk, the first id of a value,
// and the inversion of the cumulative distribution.
#pragma once

#include "sampling/problem.h"
#include "simd/f64.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE int lanes_left(int64_t n, int64_t i) { return n - i < 16 ? static_cast<int>(n - i) : 16; }
MN_INLINE uint32_t first_lanes(int n) { return n >= 16 ? 0xffffu : (1u << n) - 1; }

// exp((x - top) * scale): the weight of a logit relative to the largest.
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

MN_INLINE f32x16 load_or_low(const float* x, int lanes) {
  return select(first_lanes(lanes), f32x16::load_n(x, lanes), f32x16::set1(-__builtin_inff()));
}
MN_INLINE f32x16 load_or_low(const bf16* x, int lanes) {
  return select(first_lanes(lanes), f32x16::load_n(x, lanes), f32x16::set1(-__builtin_inff()));
}

template <class X>
void chunk_maxima(const X* x, int64_t begin, int64_t end, float* maxima) {
  f32x16 best[4];
  for (f32x16& b : best) b = f32x16::set1(-__builtin_inff());
  int64_t i = begin;
  for (; i + 64 <= end; i += 64)
    for (int j = 0; j < 4; ++j) best[j] = max(f32x16::load(x + i + 16 * j), best[j]);
  for (; i < end; i += 16) best[0] = max(load_or_low(x + i, lanes_left(end, i)), best[0]);
  max(max(best[0], best[1]), max(best[2], best[3])).store(maxima);
}

// The largest logit, and the 16 column maxima of every chunk. A NaN is passed over here; it makes
// the sum of exponentials NaN.
template <class X>
float row_maxima(const X* x, int64_t n, float* maxima) {
  f32x16 best = f32x16::set1(-__builtin_inff());
  for (int64_t c = 0; c < sample_chunks(n); ++c) {
    const int64_t end = (c + 1) * kSampleChunk < n ? (c + 1) * kSampleChunk : n;
    chunk_maxima(x, c * kSampleChunk, end, maxima + 16 * c);
    best = max(f32x16::load(maxima + 16 * c), best);
  }
  return reduce_max(best);
}

template <class X>
double chunk_sum(const X* x, int64_t begin, int64_t end, const Weigh& weigh) {
  f64x16 sum = f64x16::zero();
  int64_t i = begin;
  for (; i + 16 <= end; i += 16) sum = add(sum, weigh(f32x16::load(x + i)));
  if (i < end) sum = add(sum, weigh(load_or_low(x + i, static_cast<int>(end - i))));
  return reduce_add(sum);
}

// The total of all weights, and those of every chunk.
template <class X>
double row_sums(const X* x, int64_t n, const Weigh& weigh, double* sums) {
  double total = 0;
  for (int64_t c = 0; c < sample_chunks(n); ++c) {
    const int64_t end = (c + 1) * kSampleChunk < n ? (c + 1) * kSampleChunk : n;
    sums[c] = chunk_sum(x, c * kSampleChunk, end, weigh);
    total += sums[c];
  }
  return total;
}

// The lowest id whose logit is `top`, the largest of the row.
template <class X>
int64_t first_of(const X* x, int64_t n, float top, const float* maxima) {
  const f32x16 wanted = f32x16::set1(top);
  int64_t c = 0;
  while (!equal_mask(f32x16::load(maxima + 16 * c), wanted)) ++c;
  for (int64_t i = c * kSampleChunk;; i += 16) {
    const uint32_t equal = equal_mask(load_or_low(x + i, lanes_left(n, i)), wanted);
    if (equal) return i + __builtin_ctz(equal);
  }
}

// The first id of a list, in order, at which the cumulative weight exceeds `threshold`; the last
// one of any weight where rounding keeps the sum below.
struct Draw {
  double cumulative, threshold;
  int64_t id = -1;

  MN_INLINE bool add(float weight, int64_t candidate) {
    if (!(weight > 0.f)) return false;
    id = candidate;
    cumulative += static_cast<double>(weight);
    return cumulative > threshold;
  }
};

// Draws from all ids: the chunk first, then inside it.
template <class X>
int64_t draw_from_row(const X* x, int64_t n, const Weigh& weigh, const double* sums,
                      double threshold) {
  int64_t c = 0;
  double before = 0;
  while (c + 1 < sample_chunks(n) && !(before + sums[c] > threshold)) before += sums[c++];
  Draw draw{before, threshold};
  const int64_t end = (c + 1) * kSampleChunk < n ? (c + 1) * kSampleChunk : n;
  for (int64_t i = c * kSampleChunk; i < end; i += 16) {
    const int lanes = lanes_left(end, i);
    float weights[16];
    weigh(load_or_low(x + i, lanes)).store(weights);
    for (int j = 0; j < lanes; ++j)
      if (draw.add(weights[j], i + j)) return draw.id;
  }
  return draw.id;
}

}  // namespace
}  // namespace mn::MN_ISA
