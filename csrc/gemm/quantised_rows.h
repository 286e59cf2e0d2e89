// Rows of eight bits for the formats that quantise them. Of each granule of 32 inputs of a row
//   scale = largest / 127,  q = x * (127 / largest) rounded to the nearest integer, ties to even
// with `largest` the largest magnitude; below 2^-100 it counts as zero, and where an input is not
// finite the scale is NaN. So -127 <= q <= 127, and a product's sum over a granule is an integer
// below 2^24: a float32 holds it as exactly as an int32, and every ISA level has the same one.
#pragma once

#include "gemm/packed.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

constexpr int kQuantisedRows = MN_LEVEL >= 2 ? 8 : 6;  // of a register tile, at most

#if MN_LEVEL == 3
// A granule of a tile: [8 words of four inputs][rows], then -128 times the sum of q, then the
// scale. VPDPBUSD multiplies unsigned by signed bytes: codes are raised by 128, which the sum takes
// back.
struct QuantisedRows {
  using Value = int8_t;
  static constexpr int kDepth = 4;
  static constexpr int kScaleWords = 2;
  static constexpr int kGranuleWords = kGranule / kDepth + kScaleWords;
};
#else
// [32 words of one q as a float][rows], then the scale.
struct QuantisedRows {
  using Value = float;
  static constexpr int kDepth = 1;
  static constexpr int kScaleWords = 1;
  static constexpr int kGranuleWords = kGranule + kScaleWords;
};
#endif

// The bits of the largest magnitude. As integers, infinities and NaN are larger than all numbers.
MN_INLINE uint32_t largest_bits(f32x16 lo, f32x16 hi) {
#if MN_LEVEL >= 2
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  return _mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(lo.v), magnitude),
                       _mm512_and_si512(_mm512_castps_si512(hi.v), magnitude)));
#else
  uint32_t bits[32], largest = 0;
  lo.store(reinterpret_cast<float*>(bits));
  hi.store(reinterpret_cast<float*>(bits + 16));
  for (int i = 0; i < 32; ++i)
    largest = (bits[i] & 0x7fffffffu) > largest ? bits[i] & 0x7fffffffu : largest;
  return largest;
#endif
}

// Inputs lo, hi of row `i` of a tile of `n` rows, into its granule.
MN_INLINE void quantise_granule(f32x16 lo, f32x16 hi, void* granule, int n, int i) {
  const uint32_t bits = largest_bits(lo, hi);
  float largest, scale, factor = 0.f;
  std::memcpy(&largest, &bits, 4);
  if (bits >= 0x7f800000u) {
    scale = __builtin_nanf("");
    lo = hi = f32x16::zero();
  } else if (largest < 0x1p-100f) {
    scale = 0.f;
  } else {
    scale = largest / 127.f;
    factor = 127.f / largest;
  }
  const f32x16 by = f32x16::set1(factor);
#if MN_LEVEL == 3
  const __m512i first = _mm512_cvtps_epi32((lo * by).v), second = _mm512_cvtps_epi32((hi * by).v);
  alignas(32) uint32_t words[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(words), _mm512_cvtepi32_epi8(first));
  _mm_store_si128(reinterpret_cast<__m128i*>(words) + 1, _mm512_cvtepi32_epi8(second));
  uint32_t* to = static_cast<uint32_t*>(granule) + i;
  for (int j = 0; j < 8; ++j) to[j * n] = words[j];
  to[8 * n] =
      static_cast<uint32_t>(-128 * _mm512_reduce_add_epi32(_mm512_add_epi32(first, second)));
  std::memcpy(to + 9 * n, &scale, 4);
#else
  float q[32];
  round_to_integer(lo * by).store(q);
  round_to_integer(hi * by).store(q + 16);
  float* to = static_cast<float*>(granule) + i;
  for (int j = 0; j < 32; ++j) to[j * n] = q[j];
  to[32 * n] = scale;
#endif
}

}  // namespace
}  // namespace mn::MN_ISA
