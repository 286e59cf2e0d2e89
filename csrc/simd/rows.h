// Reductions of eight vectors at once: lane r of the result belongs to vector r, lanes 8 and up
// repeat lanes 0 and up. Each vector is reduced by the same tree as reduce_add and reduce_max.
#pragma once

#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

#if MN_LEVEL >= 2

template <class Op>
MN_INLINE f32x16 reduce_rows(const f32x16 (&v)[8], const Op& op) {
  // 128-bit parts of the halves: [a0 a1 b0 b1] op [a2 a3 b2 b3].
  __m512 half[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    half[i] = op(_mm512_shuffle_f32x4(v[2 * i].v, v[2 * i + 1].v, 0x44),
                 _mm512_shuffle_f32x4(v[2 * i].v, v[2 * i + 1].v, 0xee));
  __m512 quarter[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    quarter[i] = op(_mm512_shuffle_f32x4(half[2 * i], half[2 * i + 1], 0x88),
                    _mm512_shuffle_f32x4(half[2 * i], half[2 * i + 1], 0xdd));
  // Part r: two lanes of vector r, two of vector r + 4.
  const __m512d a = _mm512_castps_pd(quarter[0]), b = _mm512_castps_pd(quarter[1]);
  const __m512 pairs =
      op(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  const __m512 all = op(pairs, _mm512_permute_ps(pairs, 0xb1));
  return {_mm512_permutexvar_ps(
      _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14), all)};
}

MN_INLINE f32x16 reduce_add_rows(const f32x16 (&v)[8]) {
  return reduce_rows(v, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
}
MN_INLINE f32x16 reduce_max_rows(const f32x16 (&v)[8]) {
  return reduce_rows(v, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); });
}

#else

MN_INLINE f32x16 reduce_add_rows(const f32x16 (&v)[8]) {
  float lanes[16];
  for (int r = 0; r < 8; ++r) lanes[r] = lanes[r + 8] = reduce_add(v[r]);
  return f32x16::load(lanes);
}
MN_INLINE f32x16 reduce_max_rows(const f32x16 (&v)[8]) {
  float lanes[16];
  for (int r = 0; r < 8; ++r) lanes[r] = lanes[r + 8] = reduce_max(v[r]);
  return f32x16::load(lanes);
}

#endif

}  // namespace
}  // namespace mn::MN_ISA
