// Draws under top-k, top-p and min-p. A bound that every kept logit reaches picks the candidates, a
// few hundred of a peaked vocabulary; only they are ranked and weighed.
#pragma once

#include "sampling/prefix.h"
#include "sampling/vocabulary.h"

namespace mn::MN_ISA {
namespace {

// The controls of one row; 0, 1 and 0 are off.
struct Truncation {
  int64_t top_k;
  double top_p;
  float min_p;

  bool by_k(int64_t vocab) const { return top_k > 0 && top_k < vocab; }
  bool by_p() const { return top_p < 1.0; }
  bool active(int64_t vocab) const { return by_k(vocab) || by_p() || min_p > 0.f; }
};

struct Candidates {
  int32_t* ids;  // ascending
  float* logits;
  float* weights;
  uint64_t* keys;
  Narrowing open;
  int64_t count;
};

// At least k logits reach the k-th largest column maximum.
MN_INLINE float bound_of_top_k(const float* maxima, int64_t columns, int64_t k,
                               const Candidates& room) {
  if (k > columns) return -__builtin_inff();
  for (int64_t i = 0; i < columns; ++i)
    room.keys[i] = ranking_key(maxima[i], static_cast<uint32_t>(i));
  const uint64_t key = key_reaching(room.keys, nullptr, columns, static_cast<double>(k), room.open);
  return maxima[static_cast<uint32_t>(~key)];
}

// Logits of a weight below `least` lie below this, whatever the rounding of the weights.
MN_INLINE float bound_of_weight(double least, float top, float temperature) {
  if (!(least > 0)) return -__builtin_inff();
  const double bound =
      static_cast<double>(top) + (__builtin_log(least) - 1e-3) * static_cast<double>(temperature);
  return static_cast<float>(bound - 1e-6 * __builtin_fabs(bound));
}

template <class X>
int64_t collect(const X* x, int64_t n, float bound, const float* maxima, const Candidates& to) {
  const f32x16 limit = f32x16::set1(bound);
  int64_t count = 0;
  for (int64_t c = 0; c < softmax_chunks(n); ++c) {
    if (less_mask(f32x16::load(maxima + 16 * c), limit) == 0xffffu) continue;
    const int64_t end = (c + 1) * kSoftmaxChunk < n ? (c + 1) * kSoftmaxChunk : n;
    for (int64_t i = c * kSoftmaxChunk; i < end; i += 16) {
      const int lanes = lanes_left(end, i);
      const f32x16 logits = load_or_low(x + i, lanes);
      uint32_t reach = ~less_mask(logits, limit) & first_lanes(lanes);
      if (!reach) continue;
      float values[16];
      logits.store(values);
      for (; reach; reach &= reach - 1) {
        const int lane = __builtin_ctz(reach);
        to.ids[count] = static_cast<int32_t>(i + lane);
        to.logits[count++] = values[lane];
      }
    }
  }
  return count;
}

// `total` is the weight of all ids.
template <class X>
Candidates find_candidates(const X* x, int64_t n, const Truncation& truncation, const Weigh& weigh,
                           float top, float temperature, double total, const float* maxima,
                           Candidates found) {
  double least = static_cast<double>(truncation.min_p);
  float bound = -__builtin_inff();
  if (truncation.by_k(n)) {
    bound = bound_of_top_k(maxima, 16 * softmax_chunks(n), truncation.top_k, found);
    // Top-p takes its fraction of all k, also of those that min-p drops.
    if (truncation.by_p()) least = 0;
  } else if (truncation.by_p()) {
    // Ids of less weight hold less than 1 - top_p together.
    const double spare = 0.999 * (1.0 - truncation.top_p) * total / static_cast<double>(n);
    least = least > spare ? least : spare;
  }
  const float by_weight = bound_of_weight(least, top, temperature);
  found.count = collect(x, n, bound > by_weight ? bound : by_weight, maxima, found);
  for (int64_t i = 0; i < found.count; i += 16)
    weigh(f32x16::load(found.logits + i)).store(found.weights + i);
  for (int64_t i = 0; i < found.count; ++i)
    found.keys[i] = ranking_key(found.logits[i], static_cast<uint32_t>(found.ids[i]));
  return found;
}

MN_INLINE double mass_down_to(const Candidates& c, uint64_t last) {
  double mass = 0;
  for (int64_t i = 0; i < c.count; ++i)
    if (c.keys[i] >= last) mass += static_cast<double>(c.weights[i]);
  return mass;
}

// The ranking key of the last candidate that top-k and top-p keep.
MN_INLINE uint64_t last_kept(const Candidates& c, int64_t vocab, const Truncation& truncation,
                             double total) {
  uint64_t last = 0;
  if (truncation.by_k(vocab)) {
    if (c.count > truncation.top_k)
      last = key_reaching(c.keys, nullptr, c.count, static_cast<double>(truncation.top_k), c.open);
    total = mass_down_to(c, last);
  }
  if (!truncation.by_p()) return last;
  const uint64_t by_p = key_reaching(c.keys, c.weights, c.count, truncation.top_p * total, c.open);
  return last > by_p ? last : by_p;
}

MN_INLINE int64_t draw_from_candidates(const Candidates& c, uint64_t last, float min_p,
                                       double coin) {
  double mass = 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    if (c.keys[i] < last || c.weights[i] < min_p) continue;
    c.ids[kept] = c.ids[i];
    c.weights[kept] = c.weights[i];
    mass += static_cast<double>(c.weights[kept++]);
  }
  Draw draw{0, coin * mass};
  for (int64_t i = 0; i < kept; ++i)
    if (draw.add(static_cast<double>(c.weights[i]), c.ids[i])) break;
  return draw.id;
}

}  // namespace
}  // namespace mn::MN_ISA
