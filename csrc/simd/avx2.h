// AVX2 + FMA: a vector is two ymm registers.
#pragma once

#include <immintrin.h>

namespace mn::MN_ISA {
namespace {

constexpr int kVectorRegisters = 8;

// Lanes [0, n) of a 8-lane half set; n may lie outside [0, 8].
MN_INLINE __m256i head_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MN_INLINE __m256 widen(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
// Round to nearest even, NaN kept, as 8 x uint16.
MN_INLINE __m128i narrow(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  r = _mm256_blendv_epi8(r, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

struct f32x16 {
  __m256 a, b;

  static MN_INLINE f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static MN_INLINE f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static MN_INLINE f32x16 load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  static MN_INLINE f32x16 load_n(const float* p, int n) {
    return {_mm256_maskload_ps(p, head_mask(n)), _mm256_maskload_ps(p + 8, head_mask(n - 8))};
  }
  static MN_INLINE f32x16 load(const bf16* p) {
    return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static MN_INLINE f32x16 load_n(const bf16* p, int n) {
    bf16 t[16] = {};
    for (int i = 0; i < n; ++i) t[i] = p[i];
    return load(t);
  }
  MN_INLINE void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  MN_INLINE void store_n(float* p, int n) const {
    _mm256_maskstore_ps(p, head_mask(n), a);
    _mm256_maskstore_ps(p + 8, head_mask(n - 8), b);
  }
  MN_INLINE void store(bf16* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), narrow(b));
  }
  MN_INLINE void store_n(bf16* p, int n) const {
    bf16 t[16];
    store(t);
    for (int i = 0; i < n; ++i) p[i] = t[i];
  }

  friend MN_INLINE f32x16 operator+(f32x16 x, f32x16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
  }
  friend MN_INLINE f32x16 operator-(f32x16 x, f32x16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
  }
  friend MN_INLINE f32x16 operator*(f32x16 x, f32x16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
  }
  friend MN_INLINE f32x16 operator/(f32x16 x, f32x16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
  }
};

MN_INLINE f32x16 fma(f32x16 x, f32x16 y, f32x16 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
// The second operand when either is NaN.
MN_INLINE f32x16 max(f32x16 x, f32x16 y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
MN_INLINE f32x16 min(f32x16 x, f32x16 y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
MN_INLINE f32x16 sqrt(f32x16 x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
MN_INLINE __m256 lane_mask(uint32_t mask) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit));
}
// Lane i of `x` where bit i of `mask` is set, else of `y`.
MN_INLINE f32x16 select(uint32_t mask, f32x16 x, f32x16 y) {
  return {_mm256_blendv_ps(y.a, x.a, lane_mask(mask)),
          _mm256_blendv_ps(y.b, x.b, lane_mask(mask >> 8))};
}
MN_INLINE uint32_t less_mask(f32x16 x, f32x16 y) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))) << 8;
}
MN_INLINE uint32_t equal_mask(f32x16 x, f32x16 y) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ))) << 8;
}
// Pairwise halving: lanes 8 apart, then 4, 2, 1. The same tree at every level.
MN_INLINE float reduce_add(f32x16 x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
MN_INLINE float reduce_max(f32x16 x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// r * 2^n for integral n in [-126, 127].
MN_INLINE __m256 power(__m256 n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
MN_INLINE f32x16 scale_by_power(f32x16 r, f32x16 n) {
  return {_mm256_mul_ps(r.a, power(n.a)), _mm256_mul_ps(r.b, power(n.b))};
}
MN_INLINE f32x16 round_to_integer(f32x16 x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

struct bf16_pair {
  __m256 lo, hi;
  static MN_INLINE bf16_pair load(const bf16* p) {
    return {_mm256_set1_ps(to_float(p[0])), _mm256_set1_ps(to_float(p[1]))};
  }
};

struct bf16x32 {
  __m256 lo_a, lo_b, hi_a, hi_b;
  static MN_INLINE bf16x32 load(const bf16* p) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(y, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(x, high)),
            _mm256_castsi256_ps(_mm256_and_si256(y, high))};
  }
};

MN_INLINE f32x16 dot2(f32x16 acc, bf16_pair p, bf16x32 b) {
  return {_mm256_fmadd_ps(p.hi, b.hi_a, _mm256_fmadd_ps(p.lo, b.lo_a, acc.a)),
          _mm256_fmadd_ps(p.hi, b.hi_b, _mm256_fmadd_ps(p.lo, b.lo_b, acc.b))};
}

MN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace mn::MN_ISA
