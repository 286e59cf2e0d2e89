// The two kinds of rows that meet codes, and what a codec decodes for them: the weights of 16
// outputs and two inputs, either as 16 pairs of bf16 or as two vectors of floats. Codes are exact
// in both. bf16 rows stay bf16 only where the CPU multiplies bf16.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

struct FloatPair {
  f32x16 lo, hi;
};

// Rows packed [inputs][rows].
struct FloatRows {
  using Value = float;
  using Operand = FloatPair;
  static constexpr int kDepth = 1;

  // acc + row r's two inputs of step `step` times w; `a` belongs to a tile of `rows` rows.
  static MN_INLINE f32x16 dot(f32x16 acc, const float* a, int step, int rows, int r, Operand w) {
    acc = fma(f32x16::set1(a[2 * step * rows + r]), w.lo, acc);
    return fma(f32x16::set1(a[(2 * step + 1) * rows + r]), w.hi, acc);
  }
  static MN_INLINE Operand load(const float* p) { return {f32x16::load(p), f32x16::load(p + 16)}; }
  static MN_INLINE void store(float* p, Operand w) {
    w.lo.store(p);
    w.hi.store(p + 16);
  }
};

#if MN_LEVEL == 3
// Rows packed [inputs / 2][rows][2].
struct Bf16Rows {
  using Value = bf16;
  using Operand = bf16x32;
  static constexpr int kDepth = 2;

  static MN_INLINE f32x16 dot(f32x16 acc, const bf16* a, int step, int rows, int r, Operand w) {
    return dot2(acc, bf16_pair::load(a + 2 * (step * rows + r)), w);
  }
  static MN_INLINE Operand load(const bf16* p) { return bf16x32::load(p); }
  static MN_INLINE void store(bf16* p, Operand w) {
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(w.v));
  }
};
#endif

#if MN_LEVEL >= 2
// 16 pairs of bf16 in the words of a register, as an operand of either kind.
template <class T>
MN_INLINE typename T::Operand operand_of(__m512i words) {
#if MN_LEVEL == 3
  if constexpr (T::kDepth == 2) return {reinterpret_cast<__m512bh>(words)};
#endif
  if constexpr (T::kDepth == 1) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {{_mm512_castsi512_ps(_mm512_slli_epi32(words, 16))},
            {_mm512_castsi512_ps(_mm512_and_si512(words, high))}};
  }
}
#endif

// Scales of 16 outputs.
MN_INLINE f32x16 load_half(const uint8_t* p) {
#if MN_LEVEL >= 2
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
#else
  // Exponent and significand move into place; the product with 2^112 corrects the bias and makes
  // subnormal numbers normal. Infinities do not occur.
  float wide[16];
  for (int i = 0; i < 16; ++i) {
    uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    const uint32_t bits = (half & 0x7fffu) << 13 | (half & 0x8000u) << 16;
    std::memcpy(wide + i, &bits, 4);
  }
  return f32x16::load(wide) * f32x16::set1(0x1p112f);
#endif
}

MN_INLINE f32x16 load_power(const uint8_t* p) {
  float wide[16];
#if MN_LEVEL >= 2
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm512_castsi512_ps(
      _mm512_max_epu32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000)))};
#else
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = p[i] ? static_cast<uint32_t>(p[i]) << 23 : 0x00400000u;
    std::memcpy(wide + i, &bits, 4);
  }
#endif
  return f32x16::load(wide);
}

}  // namespace
}  // namespace mn::MN_ISA
