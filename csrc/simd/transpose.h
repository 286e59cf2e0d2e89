// 16 x 16 transposition of 32-bit words: what packing rows into lanes needs. And two rows of bf16
// into pairs.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

#if MN_LEVEL >= 2

struct u32x16 {
  __m512i v;
  static MN_INLINE u32x16 zero() { return {_mm512_setzero_si512()}; }
  static MN_INLINE u32x16 load_n(const void* p, int n) {
    return {_mm512_maskz_loadu_epi32(head_mask(n), p)};
  }
  MN_INLINE void store_n(void* p, int n) const { _mm512_mask_storeu_epi32(p, head_mask(n), v); }
  // Word i: lo[i] below hi[i], for n lanes.
  static MN_INLINE u32x16 interleave_n(const bf16* lo, const bf16* hi, int n) {
    const __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(head_mask(n), lo));
    const __m512i b = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(head_mask(n), hi));
    return {_mm512_or_si512(a, _mm512_slli_epi32(b, 16))};
  }
};

// Lane j of x[i] becomes lane i of x[j].
MN_INLINE void transpose(u32x16 (&x)[16]) {
  __m512i t[16], u[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(x[i].v, x[i + 1].v);
    t[i + 1] = _mm512_unpackhi_epi32(x[i].v, x[i + 1].v);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // u[4 * q + c] holds column 4 * l + c of rows 4q .. 4q + 3 in its 128-bit lane l.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(u[c], u[4 + c], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(u[c], u[4 + c], 0xee);
    const __m512i d = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0x44);
    const __m512i e = _mm512_shuffle_i32x4(u[8 + c], u[12 + c], 0xee);
    x[c].v = _mm512_shuffle_i32x4(a, d, 0x88);
    x[4 + c].v = _mm512_shuffle_i32x4(a, d, 0xdd);
    x[8 + c].v = _mm512_shuffle_i32x4(b, e, 0x88);
    x[12 + c].v = _mm512_shuffle_i32x4(b, e, 0xdd);
  }
}

MN_INLINE f32x16 as_floats(const u32x16& x) { return {_mm512_castsi512_ps(x.v)}; }

// dst[2 * i] = a[i], dst[2 * i + 1] = b[i], i < 16.
MN_INLINE void interleave(const bf16* a, const bf16* b, bf16* dst) {
  const __m512i low =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  _mm512_storeu_si512(dst, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

#else

struct u32x16 {
  uint32_t v[16];
  static MN_INLINE u32x16 zero() { return {}; }
  static MN_INLINE u32x16 load_n(const void* p, int n) {
    u32x16 x = {};
    std::memcpy(x.v, p, static_cast<size_t>(n) * 4);
    return x;
  }
  MN_INLINE void store_n(void* p, int n) const { std::memcpy(p, v, static_cast<size_t>(n) * 4); }
  // Word i: lo[i] below hi[i], for n lanes.
  static MN_INLINE u32x16 interleave_n(const bf16* lo, const bf16* hi, int n) {
    u32x16 x = {};
    for (int i = 0; i < n; ++i) x.v[i] = lo[i] | static_cast<uint32_t>(hi[i]) << 16;
    return x;
  }
};

MN_INLINE void transpose(u32x16 (&x)[16]) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) {
      const uint32_t t = x[i].v[j];
      x[i].v[j] = x[j].v[i];
      x[j].v[i] = t;
    }
}

MN_INLINE f32x16 as_floats(const u32x16& x) {
  float f[16];
  std::memcpy(f, x.v, sizeof f);
  return f32x16::load(f);
}

MN_INLINE void interleave(const bf16* a, const bf16* b, bf16* dst) {
  for (int i = 0; i < 16; ++i) {
    dst[2 * i] = a[i];
    dst[2 * i + 1] = b[i];
  }
}

#endif

}  // namespace
}  // namespace mn::MN_ISA
