// Codes that are signed bytes, with a scale per row or per 32 inputs.
#pragma once

#include "gemm/coded.h"
#include "gemm/formats/operand.h"

namespace mn::MN_ISA {
namespace {

MN_INLINE f32x16 floats_of_bytes(const uint8_t* p) {
#if MN_LEVEL >= 2
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
#elif MN_LEVEL == 1
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
#else
  float f[16];
  for (int i = 0; i < 16; ++i) f[i] = static_cast<float>(static_cast<int8_t>(p[i]));
  return f32x16::load(f);
#endif
}

template <Format format>
struct Int8Codec {
  static constexpr Coding kCoding = coding_of(format);
  static constexpr int kStepBytes = 64;

  static MN_INLINE f32x16 scale(const uint8_t* header, int half) {
    if constexpr (format == Format::int8_row)
      return f32x16::load(reinterpret_cast<const float*>(header) + 16 * half);
    else
      return load_half(header + 32 * half);
  }

  // Both halves of step `s` of the four at `p`.
  template <class T>
  static MN_INLINE void step(const uint8_t* p, int s, typename T::Operand& w0,
                             typename T::Operand& w1) {
    w0 = half<T>(p + s * kStepBytes);
    w1 = half<T>(p + s * kStepBytes + 32);
  }

  template <class T>
  static MN_INLINE typename T::Operand half(const uint8_t* p) {
    const f32x16 lo = floats_of_bytes(p), hi = floats_of_bytes(p + 16);
#if MN_LEVEL == 3
    // Eight bits are exact in bf16: the upper half of the float.
    if constexpr (T::kDepth == 2)
      return {reinterpret_cast<__m512bh>(_mm512_or_si512(
          _mm512_srli_epi32(_mm512_castps_si512(lo.v), 16), _mm512_castps_si512(hi.v)))};
#endif
    if constexpr (T::kDepth == 1) return {lo, hi};
  }
};

}  // namespace
}  // namespace mn::MN_ISA
