// Passes over a row of logits: maxima and sums of exponentials per chunk, the first id of a value,
// and the inversion of the cumulative distribution.
#pragma once

#include "sampling/problem.h"
#include "simd/log_softmax.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE int64_t chunk_length(int64_t n, int64_t chunk) {
  const int64_t left = n - chunk * kSoftmaxChunk;
  return left < kSoftmaxChunk ? left : kSoftmaxChunk;
}

// The largest logit, and the 16 column maxima of every chunk.
template <class X>
float row_maxima(const X* x, int64_t n, float* maxima) {
  f32x16 best = f32x16::set1(-__builtin_inff());
  for (int64_t c = 0; c < softmax_chunks(n); ++c) {
    const f32x16 of_chunk = chunk_maxima(x + c * kSoftmaxChunk, chunk_length(n, c));
    of_chunk.store(maxima + 16 * c);
    best = max(of_chunk, best);
  }
  return reduce_max(best);
}

// The weights of a row's logits, chunk by chunk.
struct RowWeights {
  float top, scale;
  const float* maxima;  // of row_maxima
  double* sums;         // of each chunk, once row_sums has run

  MN_INLINE float largest(int64_t c) const { return reduce_max(f32x16::load(maxima + 16 * c)); }
  MN_INLINE Weigh relative_to_chunk(int64_t c) const {
    return Weigh(chunk_base(largest(c)), scale);
  }
  MN_INLINE double of_chunk(int64_t c) const { return chunk_weight(largest(c), top, scale); }
};

// The total of all weights, and those of every chunk.
template <class X>
double row_sums(const X* x, int64_t n, const RowWeights& row) {
  double total = 0;
  for (int64_t c = 0; c < softmax_chunks(n); ++c) {
    row.sums[c] = chunk_sum(x + c * kSoftmaxChunk, chunk_length(n, c), row.relative_to_chunk(c)) *
                  row.of_chunk(c);
    total += row.sums[c];
  }
  return total;
}

// The lowest id whose logit is `top`, the largest of the row.
template <class X>
int64_t first_of(const X* x, int64_t n, float top, const float* maxima) {
  const f32x16 wanted = f32x16::set1(top);
  int64_t c = 0;
  while (!equal_mask(f32x16::load(maxima + 16 * c), wanted)) ++c;
  for (int64_t i = c * kSoftmaxChunk;; i += 16) {
    const uint32_t equal = equal_mask(load_or_low(x + i, lanes_left(n, i)), wanted);
    if (equal) return i + __builtin_ctz(equal);
  }
}

// The first id of a list, in order, at which the cumulative weight exceeds `threshold`; the last
// one of any weight where rounding keeps the sum below.
struct Draw {
  double cumulative, threshold;
  int64_t id = -1;

  MN_INLINE bool add(double weight, int64_t candidate) {
    if (!(weight > 0)) return false;
    id = candidate;
    cumulative += weight;
    return cumulative > threshold;
  }
};

// Draws from all ids: the chunk first, then inside it.
template <class X>
int64_t draw_from_row(const X* x, int64_t n, const RowWeights& row, double threshold) {
  int64_t c = 0;
  double before = 0;
  while (c + 1 < softmax_chunks(n) && !(before + row.sums[c] > threshold)) before += row.sums[c++];
  Draw draw{before, threshold};
  const Weigh weigh = row.relative_to_chunk(c);
  const double unit = row.of_chunk(c);
  const int64_t end = c * kSoftmaxChunk + chunk_length(n, c);
  for (int64_t i = c * kSoftmaxChunk; i < end; i += 16) {
    const int lanes = lanes_left(end, i);
    float weights[16];
    weigh(load_or_low(x + i, lanes)).store(weights);
    for (int j = 0; j < lanes; ++j)
      if (draw.add(static_cast<double>(weights[j]) * unit, i + j)) return draw.id;
  }
  return draw.id;
}

}  // namespace
}  // namespace mn::MN_ISA
