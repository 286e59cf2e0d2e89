// The k largest of up to 1024 keys with exact ties, without sorting.
//
//   1. bound    the k-th largest of 16 * ceil(k / 16) column maxima: at least k keys reach it
//   2. collect  the keys that do, in ascending id order; a dozen for the top 8 of 256
//   3. place    each at its rank, the number of collected keys that beat it
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

constexpr int kMaxKeys = 1024;

MN_INLINE uint32_t first_lanes(int n) { return n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1; }

MN_INLINE f32x16 count_if(f32x16 count, uint32_t mask) {
  return count + select(mask, f32x16::set1(1.f), f32x16::zero());
}

// Writes to out[r] the id of the key of rank r, for r < k. `values` ascend by id and hold -inf from
// `count` to the next multiple of 16; ids null stands for 0, 1, 2...
MN_INLINE void place_by_rank(const float* values, const int32_t* ids, int count, int k,
                             int32_t* out) {
  for (int v = 0; v < count; v += 16) {
    const f32x16 mine = f32x16::load(values + v);
    f32x16 rank = f32x16::zero();
    for (int j = 0; j < count; ++j) {
      const f32x16 other = f32x16::set1(values[j]);
      const uint32_t later = ~first_lanes(j + 1 - v);  // these lose a tie against j
      rank = count_if(rank, less_mask(mine, other) | (equal_mask(mine, other) & later));
    }
    float ranks[16];
    rank.store(ranks);
    const int n = count - v < 16 ? count - v : 16;
    for (int i = 0; i < n; ++i) {
      const int r = static_cast<int>(ranks[i]);
      if (r < k) out[r] = ids ? ids[v + i] : v + i;
    }
  }
}

// Column c is the keys at c, c + 16 * width, c + 32 * width...; each must hold a key.
MN_INLINE float reached_by_k(const float* keys, int vectors, int width, int k) {
  alignas(64) float maxima[kMaxKeys];
  for (int c = 0; c < width; ++c) {
    f32x16 best = f32x16::load(keys + 16 * c);
    for (int v = c + width; v < vectors; v += width) best = max(best, f32x16::load(keys + 16 * v));
    best.store(maxima + 16 * c);
  }
  const f32x16 infinity = f32x16::set1(__builtin_inff());
  f32x16 bound = infinity;
  for (int c = 0; c < width; ++c) {
    const f32x16 mine = f32x16::load(maxima + 16 * c);
    f32x16 above = f32x16::zero();
    for (int j = 0; j < 16 * width; ++j)
      above = count_if(above, less_mask(mine, f32x16::set1(maxima[j])));
    const uint32_t among_k = less_mask(above, f32x16::set1(static_cast<float>(k)));
    bound = min(bound, select(among_k, mine, infinity));
  }
  return -reduce_max(f32x16::zero() - bound);
}

MN_INLINE int collect(const float* keys, int n, float bound, int k, float* values, int32_t* ids) {
  int count = 0, ties = 0;
  for (int base = 0; base < n; base += 64) {
    uint64_t reach = 0, equal = 0;
    for (int v = 0; v < 64; v += 16) {
      const f32x16 key = f32x16::load(keys + base + v), limit = f32x16::set1(bound);
      const uint64_t same = equal_mask(key, limit);
      equal |= same << v;
      reach |= (less_mask(limit, key) | same) << v;
    }
    for (; reach; reach &= reach - 1) {
      const int i = __builtin_ctzll(reach);
      // Of the keys equal to the bound no more than the first k can be among the k best.
      if ((equal >> i & 1) && ties++ >= k) continue;
      values[count] = keys[base + i];
      ids[count++] = base + i;
    }
  }
  return count;
}

// The ids of the k largest of keys[0, n) in descending order, the lowest id first among equals.
// k <= n <= kMaxKeys; no NaN; -inf from n to the next multiple of 64.
MN_INLINE void select_top(const float* keys, int n, int k, int32_t* out) {
  const int width = (k + 15) / 16, vectors = (n + 15) / 16;
  if (vectors <= 2 * width) return place_by_rank(keys, nullptr, n, k, out);
  alignas(64) float values[kMaxKeys + 16];
  int32_t ids[kMaxKeys + 16];
  const int count = collect(keys, n, reached_by_k(keys, vectors, width, k), k, values, ids);
  f32x16::set1(-__builtin_inff()).store(values + count);
  place_by_rank(values, ids, count, k, out);
}

}  // namespace
}  // namespace mn::MN_ISA
