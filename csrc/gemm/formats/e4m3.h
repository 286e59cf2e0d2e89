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

#if MN_LEVEL == 3
// Upper and lower bytes of the bf16 that is 2^-8 times the value of a magnitude.
struct E4m3Magnitudes {
  alignas(64) uint8_t high[128], low[128];
  constexpr E4m3Magnitudes() : high(), low() {
    // m * 2^-17 for m = 0 .. 7, then the bits where bf16 has them.
    constexpr bf16 subnormal[8] = {0, 0x3700, 0x3780, 0x37c0, 0x3800, 0x3820, 0x3840, 0x3860};
    for (int code = 0; code < 128; ++code) {
      const int word = code < 8 ? subnormal[code] : 0x3800 + (code << 4);
      high[code] = static_cast<uint8_t>(word >> 8);
      low[code] = static_cast<uint8_t>(word);
    }
  }
};
constexpr E4m3Magnitudes kMagnitudes;
#endif

struct E4m3Codec {
  static constexpr Coding kCoding = coding_of(Format::e4m3_128x128);
  static constexpr int kStepBytes = 64;  // of codes

  static MN_INLINE f32x16 scale(const uint8_t* header, int half) {
    return f32x16::load(reinterpret_cast<const float*>(header) + 16 * half) * f32x16::set1(256.f);
  }

#if MN_LEVEL == 3
  // Both halves of step `s` of the four at `p`, their bf16 from tables by the seven bits beside the
  // sign.
  template <class T>
  static MN_INLINE void step(const uint8_t* p, int s, typename T::Operand& w0,
                             typename T::Operand& w1) {
    // Eight bytes of one half beside eight of the other, so that they interleave within lanes.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i code = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(p + s * kStepBytes));
    const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kMagnitudes.low), code,
                                                 _mm512_load_si512(kMagnitudes.low + 64));
    const __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(kMagnitudes.high), code,
                                                  _mm512_load_si512(kMagnitudes.high + 64));
    // 0xf8: a | (b & c), the sign.
    const __m512i sign =
        _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    w0 = operand_of<T>(_mm512_unpacklo_epi8(low, sign));
    w1 = operand_of<T>(_mm512_unpackhi_epi8(low, sign));
  }
#else
  template <class T>
  static MN_INLINE void step(const uint8_t* p, int s, typename T::Operand& w0,
                             typename T::Operand& w1) {
    w0 = half<T>(p + s * kStepBytes);
    w1 = half<T>(p + s * kStepBytes + 32);
  }
#endif

#if MN_LEVEL == 3
#elif MN_LEVEL == 2
  template <class T>
  static MN_INLINE typename T::Operand half(const uint8_t* p) {
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
  static MN_INLINE typename T::Operand half(const uint8_t* p) {
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
