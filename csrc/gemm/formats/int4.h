// Codes of four bits: int4_32, the integers 0 .. 15, and what mxfp4 shares with it. A table of 16
// values decodes both; where it lies in a register, the bits above an index are ignored.
#pragma once

#include "gemm/coded.h"
#include "gemm/formats/operand.h"

namespace mn::MN_ISA {
namespace {

// `Table`: bf16 bits of the 16 values.
template <class Table>
struct NibbleDecoder {
  static constexpr int kStepBytes = 32, kHalfBytes = 64;  // four steps of a half lie together

#if MN_LEVEL >= 2
  // Both halves of step `s` of the four at `p`.
  template <class T>
  static MN_INLINE void step(const uint8_t* p, int s, typename T::Operand& w0,
                             typename T::Operand& w1) {
    w0 = half<T>(p, s);
    w1 = half<T>(p + kHalfBytes, s);
  }
  template <class T>
  static MN_INLINE typename T::Operand half(const uint8_t* p, int s) {
    const __m512i table = _mm512_broadcast_i64x4(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(Table::kValues)));
    const __m512i codes = _mm512_loadu_si512(p);
    return operand_of<T>(_mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * s), table));
  }
#else
  template <class T>
  static MN_INLINE void step(const uint8_t* p, int s, typename T::Operand& w0,
                             typename T::Operand& w1) {
    w0 = half<T>(p, s);
    w1 = half<T>(p + kHalfBytes, s);
  }
  template <class T>
  static MN_INLINE typename T::Operand half(const uint8_t* p, int s) {
    float lo[16], hi[16];
    for (int l = 0; l < 16; ++l) {
      uint32_t codes;
      std::memcpy(&codes, p + 4 * l, 4);
      lo[l] = to_float(Table::kValues[codes >> 4 * s & 15]);
      hi[l] = to_float(Table::kValues[codes >> (16 + 4 * s) & 15]);
    }
    return {f32x16::load(lo), f32x16::load(hi)};
  }
#endif
};

struct Int4Table {
  static constexpr bf16 kValues[16] = {0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0,
                                       0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120, 0x4130,
                                       0x4140, 0x4150, 0x4160, 0x4170};
};

struct Int4Codec : NibbleDecoder<Int4Table> {
  static constexpr Coding kCoding = coding_of(Format::int4_32);
  static MN_INLINE f32x16 scale(const uint8_t* header, int half) {
    return load_half(header + 32 * half);
  }
  static MN_INLINE f32x16 min(const uint8_t* header, int half) {
    return load_half(header + 64 + 32 * half);
  }
};

}  // namespace
}  // namespace mn::MN_ISA
