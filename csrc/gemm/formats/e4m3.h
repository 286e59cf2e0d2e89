// e4m3 codes: sign, four bits of exponent with bias 7, three of significand, no infinities.
//
// As a bf16 with bias 127 a normal code is its bits shifted by 4 with an exponent 120 larger; one
// 112 larger needs no addition, only bits that are clear. So codes are decoded to 2^-8 of their
// value, and the scale makes up for it. Subnormal codes come from a table. NaN is refused at
// packing.
#pragma once

#include "gemm/coded.h"
#include "gemm/formats/operand.h"

namespace mn::MN_ISA {
namespace {

struct E4m3Codec {
  static constexpr Coding kCoding = coding_of(Format::e4m3_128x128);
  static constexpr int kStepBytes = 64, kHalfBytes = 32;  // of codes

  static MN_INLINE f32x16 scale(const uint8_t* header, int half) {
    return f32x16::load(reinterpret_cast<const float*>(header) + 16 * half) * f32x16::set1(256.f);
  }

  // Four steps of one half.
  template <class T>
  static MN_INLINE void decode(const uint8_t* p, typename T::Operand (&w)[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) w[i] = step<T>(p + i * kStepBytes);
  }

#if MN_LEVEL >= 2
  template <class T>
  static MN_INLINE typename T::Operand step(const uint8_t* p) {
    // m * 2^-17 for m = 0 .. 7, twice: bit 3 of an index is clear, bit 4 too, where it is used.
    const __m512i subnormal = _mm512_broadcast_i32x4(
        _mm_setr_epi16(0, 0x3700, 0x3780, 0x37c0, 0x3800, 0x3820, 0x3840, 0x3860));
    const __m512i code =
        _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    const __m512i shifted = _mm512_slli_epi16(code, 4);
    // 0xea: (a & b) | c.
    __m512i word = _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi16(0x07f0),
                                             _mm512_set1_epi16(0x3800), 0xea);
    const __mmask32 small = _mm512_testn_epi16_mask(shifted, _mm512_set1_epi16(0x0780));
    word = _mm512_mask_permutexvar_epi16(word, small, code, subnormal);
    // 0xf8: a | (b & c), the sign.
    word = _mm512_ternarylogic_epi32(word, shifted, _mm512_set1_epi16(static_cast<short>(0x8000)),
                                     0xf8);
    return operand_of<T>(word);
  }
#else
  // 2^-8 times the value of one code.
  static MN_INLINE float value(uint8_t code) {
    const uint32_t magnitude = code & 0x7fu;
    // A subnormal code is read as if it had the leading bit of the smallest normal one.
    const uint32_t exponent = magnitude < 8 ? 113u : 112u;
    const uint32_t bits = (magnitude << 20) + (exponent << 23);
    float f;
    std::memcpy(&f, &bits, 4);
    f -= magnitude < 8 ? 0x1p-14f : 0.f;
    return code & 0x80u ? -f : f;
  }
  template <class T>
  static MN_INLINE typename T::Operand step(const uint8_t* p) {
    float lo[16], hi[16];
    for (int i = 0; i < 16; ++i) {
      lo[i] = value(p[2 * i]);
      hi[i] = value(p[2 * i + 1]);
    }
    return {f32x16::load(lo), f32x16::load(hi)};
  }
#endif
};

}  // namespace
}  // namespace mn::MN_ISA
