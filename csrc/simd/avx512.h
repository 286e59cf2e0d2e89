// AVX-512 (F, BW, VL, DQ): a vector is one zmm register. Level 3 adds VDPBF16PS and the bf16
// conversions.
#pragma once

#include <immintrin.h>

namespace mn::MN_ISA {
namespace {

constexpr int kVectorRegisters = 32;

MN_INLINE __mmask16 head_mask(int n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1);
}
MN_INLINE __m512 widen(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
// Round to nearest even, NaN kept. VCVTNEPS2BF16 also flushes denormals to zero, as VDPBF16PS does.
MN_INLINE __m256i narrow(__m512 x) {
#if MN_LEVEL == 3
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_srli_epi32(
      _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_srli_epi32(bits, 16),
                           _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(r);
#endif
}

struct f32x16 {
  __m512 v;

  static MN_INLINE f32x16 zero() { return {_mm512_setzero_ps()}; }
  static MN_INLINE f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
  static MN_INLINE f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static MN_INLINE f32x16 load_n(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(head_mask(n), p)};
  }
  static MN_INLINE f32x16 load(const bf16* p) {
    return {widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static MN_INLINE f32x16 load_n(const bf16* p, int n) {
    return {widen(_mm256_maskz_loadu_epi16(head_mask(n), p))};
  }
  MN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  MN_INLINE void store_n(float* p, int n) const { _mm512_mask_storeu_ps(p, head_mask(n), v); }
  MN_INLINE void store(bf16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
  }
  MN_INLINE void store_n(bf16* p, int n) const {
    _mm256_mask_storeu_epi16(p, head_mask(n), narrow(v));
  }

  friend MN_INLINE f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend MN_INLINE f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend MN_INLINE f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend MN_INLINE f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
};

MN_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The second operand when either is NaN.
MN_INLINE f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
MN_INLINE f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
MN_INLINE f32x16 sqrt(f32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
// Lane i of `a` where bit i of `mask` is set, else of `b`.
MN_INLINE f32x16 select(uint32_t mask, f32x16 a, f32x16 b) {
  return {_mm512_mask_mov_ps(b.v, static_cast<__mmask16>(mask), a.v)};
}
MN_INLINE uint32_t less_mask(f32x16 a, f32x16 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
}
MN_INLINE uint32_t equal_mask(f32x16 a, f32x16 b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ);
}
// Pairwise halving: lanes 8 apart, then 4, 2, 1. The same tree at every level.
MN_INLINE float reduce_add(f32x16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
MN_INLINE float reduce_max(f32x16 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// r * 2^n for integral n in [-126, 127].
MN_INLINE f32x16 scale_by_power(f32x16 r, f32x16 n) { return {_mm512_scalef_ps(r.v, n.v)}; }
MN_INLINE f32x16 round_to_integer(f32x16 x) {
  return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

#if MN_LEVEL == 3

struct bf16_pair {
  __m512bh v;
  static MN_INLINE bf16_pair load(const bf16* p) {
    int bits;
    std::memcpy(&bits, p, 4);
    return {reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits))};
  }
};

struct bf16x32 {
  __m512bh v;
  static MN_INLINE bf16x32 load(const bf16* p) {
    return {reinterpret_cast<__m512bh>(_mm512_loadu_si512(p))};
  }
};

MN_INLINE f32x16 dot2(f32x16 acc, bf16_pair a, bf16x32 b) {
  return {_mm512_dpbf16_ps(acc.v, a.v, b.v)};
}

#else

struct bf16_pair {
  __m512 lo, hi;
  static MN_INLINE bf16_pair load(const bf16* p) {
    return {_mm512_set1_ps(to_float(p[0])), _mm512_set1_ps(to_float(p[1]))};
  }
};

struct bf16x32 {
  __m512 lo, hi;
  static MN_INLINE bf16x32 load(const bf16* p) {
    const __m512i x = _mm512_loadu_si512(p);
    return {
        _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
        _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
};

MN_INLINE f32x16 dot2(f32x16 acc, bf16_pair a, bf16x32 b) {
  return {_mm512_fmadd_ps(a.hi, b.hi, _mm512_fmadd_ps(a.lo, b.lo, acc.v))};
}

#endif

MN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace mn::MN_ISA
