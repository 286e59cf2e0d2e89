// 16 double accumulators for float terms: sums whose order and rounding must not show.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

#if MN_LEVEL >= 2

struct f64x16 {
  __m512d a, b;
  static MN_INLINE f64x16 zero() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
};

MN_INLINE f64x16 add(f64x16 sum, f32x16 x) {
  return {_mm512_add_pd(sum.a, _mm512_cvtps_pd(_mm512_castps512_ps256(x.v))),
          _mm512_add_pd(sum.b, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1)))};
}
// Pairwise halving: lanes 8 apart, then 4, 2, 1. The same tree at every level.
MN_INLINE double reduce_add(f64x16 x) {
  const __m512d eight = _mm512_add_pd(x.a, x.b);
  const __m256d four =
      _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#elif MN_LEVEL == 1

struct f64x16 {
  __m256d a, b, c, d;
  static MN_INLINE f64x16 zero() {
    const __m256d z = _mm256_setzero_pd();
    return {z, z, z, z};
  }
};

MN_INLINE f64x16 add(f64x16 sum, f32x16 x) {
  return {_mm256_add_pd(sum.a, _mm256_cvtps_pd(_mm256_castps256_ps128(x.a))),
          _mm256_add_pd(sum.b, _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1))),
          _mm256_add_pd(sum.c, _mm256_cvtps_pd(_mm256_castps256_ps128(x.b))),
          _mm256_add_pd(sum.d, _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1)))};
}
// Pairwise halving: lanes 8 apart, then 4, 2, 1. The same tree at every level.
MN_INLINE double reduce_add(f64x16 x) {
  const __m256d four = _mm256_add_pd(_mm256_add_pd(x.a, x.c), _mm256_add_pd(x.b, x.d));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#else

struct f64x16 {
  double v[16];
  static MN_INLINE f64x16 zero() { return {}; }
};

MN_INLINE f64x16 add(f64x16 sum, f32x16 x) {
  for (int i = 0; i < 16; ++i) sum.v[i] += static_cast<double>(x.v[i]);
  return sum;
}
// Pairwise halving: lanes 8 apart, then 4, 2, 1. The same tree at every level.
MN_INLINE double reduce_add(f64x16 x) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x.v[i] += x.v[i + half];
  return x.v[0];
}

#endif

}  // namespace
}  // namespace mn::MN_ISA
