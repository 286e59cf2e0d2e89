// 8-bit codes as operands of dot2. A step's 32 codes are the 16 lanes of the first of each pair,
// then the 16 of the second, so that they widen without a shuffle across lanes.
//
//   int8_code   -127 .. 127
//   e4m3_code   the value of an E4M3 code (no infinities) divided by 256: half precision then holds
//               every one of them, subnormal codes included
//
// Both are exact in bf16.
#pragma once

#include "simd/vec.h"

namespace mn {
struct int8_code {
  uint8_t bits;
};
struct e4m3_code {
  uint8_t bits;
};
}  // namespace mn

namespace mn::MN_ISA {
namespace {

#if MN_LEVEL >= 2

MN_INLINE bf16x32 pair_up(__m512 lo, __m512 hi) {
#if MN_LEVEL == 3
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(lo), 16);
  return {reinterpret_cast<__m512bh>(_mm512_or_si512(low, _mm512_castps_si512(hi)))};
#else
  return {lo, hi};
#endif
}

MN_INLINE bf16x32 widen_pairs(const int8_code* p) {
  const auto* bytes = reinterpret_cast<const __m128i*>(p);
  return pair_up(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes))),
                 _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes + 1))));
}

MN_INLINE bf16x32 widen_pairs(const e4m3_code* p) {
  const __m512i words =
      _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  // Sign, and the exponent and mantissa where half precision has them, 8 below its bias.
  const __m512i halves = _mm512_and_si512(_mm512_slli_epi16(words, 7),
                                          _mm512_set1_epi16(static_cast<int16_t>(0xbf80)));
  return pair_up(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                 _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
}

#else

MN_INLINE float widen_code(int8_code c) { return static_cast<float>(static_cast<int8_t>(c.bits)); }

MN_INLINE float widen_code(e4m3_code c) {
  const uint32_t magnitude = c.bits & 0x7fu, sign = static_cast<uint32_t>(c.bits & 0x80u) << 24;
  const float subnormal = static_cast<float>(magnitude) * 0x1p-17f;
  uint32_t bits = (magnitude << 20) + (112u << 23), small;
  std::memcpy(&small, &subnormal, 4);
  bits = (magnitude < 8 ? small : bits) | sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <class Code>
MN_INLINE bf16x32 widen_pairs(const Code* p) {
  float values[32];
  for (int i = 0; i < 32; ++i) values[i] = widen_code(p[i]);
#if MN_LEVEL == 1
  return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8), _mm256_loadu_ps(values + 16),
          _mm256_loadu_ps(values + 24)};
#else
  bf16x32 pairs;
  std::memcpy(&pairs.lo, values, 64);
  std::memcpy(&pairs.hi, values + 16, 64);
  return pairs;
#endif
}

#endif

}  // namespace
}  // namespace mn::MN_ISA
