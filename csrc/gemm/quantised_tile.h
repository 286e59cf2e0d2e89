// Register tiles over int8 codes and quantised rows: an exact sum per output and granule, in int32
// where the CPU multiplies bytes, then one multiply-add with the scale of the row, and that of the
// output where it has one per granule.
#pragma once

#include "gemm/coded_tile.h"
#include "gemm/formats/int8.h"
#include "gemm/quantised_rows.h"

namespace mn::MN_ISA {
namespace {

#if MN_LEVEL == 3
using Integers = __m512i;

// Both halves of steps 2 q and 2 q + 1 of a granule of a panel: four inputs of each output, raised
// by 128. The order of the bytes is that of code_place.
MN_INLINE void load_codes(const uint8_t* p, int q, __m512i& w0, __m512i& w1) {
  const __m512i lane =
      _mm512_cvtepu8_epi32(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  // Of lane l: bytes l and 16 + l of the first step, then of the second.
  const __m512i order = _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x01010101)),
                                         _mm512_set1_epi32(0x50401000));
  const __m512i other = _mm512_add_epi32(order, _mm512_set1_epi32(0x20202020));
  const __m512i raise = _mm512_set1_epi32(static_cast<int>(0x80808080u));
  const __m512i first = _mm512_loadu_si512(p + q * 128),
                second = _mm512_loadu_si512(p + q * 128 + 64);
  w0 = _mm512_xor_si512(_mm512_permutex2var_epi8(first, order, second), raise);
  w1 = _mm512_xor_si512(_mm512_permutex2var_epi8(first, other, second), raise);
}

// acc[r][v] = the sum over a granule. `a` is at the granule of the tile's rows.
template <int R, int P>
MN_INLINE void sum_granule_codes(const int8_t* a, const uint8_t* const (&b)[P], int64_t ahead,
                                 f32x16 (&sums)[R][2 * P]) {
  const int32_t* words = reinterpret_cast<const int32_t*>(a);
  __m512i acc[R][2 * P];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < 2 * P; ++v) acc[r][v] = _mm512_set1_epi32(words[8 * R + r]);
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) {
    __m512i w[2 * P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      prefetch(b[p] + ahead + 128 * q);
      prefetch(b[p] + ahead + 128 * q + 64);
      load_codes(b[p], q, w[2 * p], w[2 * p + 1]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(words[q * R + r]);
#pragma GCC unroll 8
      for (int v = 0; v < 2 * P; ++v) acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], w[v], x);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < 2 * P; ++v) sums[r][v] = {_mm512_cvtepi32_ps(acc[r][v])};
}
#else
template <int R, int P>
MN_INLINE void sum_granule_codes(const float* a, const uint8_t* const (&b)[P], int64_t ahead,
                                 f32x16 (&sums)[R][2 * P]) {
  zero(sums);
  for (int s = 0; s < kSteps; ++s) {
    FloatPair w[2 * P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      prefetch(b[p] + ahead + 64 * s);
      Int8Codec<Format::int8_row>::step<FloatRows>(b[p], s, w[2 * p], w[2 * p + 1]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < 2 * P; ++v) sums[r][v] = FloatRows::dot(sums[r][v], a, s, R, r, w[v]);
  }
}
#endif

// c = c + sum * scale of the row and, per granule, of the output; c = 0 before the first granule,
// and times the output's one scale after the last.
template <class Codec, int R, int P>
void quantised_tile(const CodedTile<QuantisedRows>& args) {
  constexpr int V = 2 * P;
  constexpr Coding coding = Codec::kCoding;
  constexpr bool by_row = coding.granules == 0;
  constexpr int64_t in_flight = codes_ahead(P);
  const auto* a = args.a;
  int64_t bytes = args.panel_bytes;
  const uint8_t *b[P], *header[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    header[p] = args.b[p];
    b[p] = args.b[p] + (by_row ? coding.header_bytes : 0);
  }
  const uint8_t* later = args.later;
  f32x16 total[R][V];
  zero(total);
  for (int64_t g = 0; g < args.granules; ++g) {
    const int64_t ahead = ahead_of(bytes, in_flight, args.jump);
    bytes -= coding.granule_bytes + (by_row ? 0 : coding.header_bytes);
    for (const uint8_t* end = later + args.later_bytes; later < end; later += 64) prefetch(later);
    if constexpr (!by_row) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        header[p] = b[p];
        prefetch(b[p] + ahead);
        b[p] += coding.header_bytes;
      }
    }
    f32x16 sums[R][V];
    sum_granule_codes<R, P>(a, b, ahead, sums);
    a += QuantisedRows::kGranuleWords * R * (4 / int{sizeof(QuantisedRows::Value)});
    const float* row_scales = reinterpret_cast<const float*>(a) - R;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const f32x16 scale = by_row ? f32x16::set1(1.f) : Codec::scale(header[v / 2], v % 2);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const f32x16 row_scale = f32x16::set1(row_scales[r]);
        total[r][v] = fma(sums[r][v], by_row ? row_scale : scale * row_scale, total[r][v]);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) b[p] += coding.granule_bytes;
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      if constexpr (by_row) total[r][v] = total[r][v] * Codec::scale(header[v / 2], v % 2);
      total[r][v].store(args.c + r * args.ldc + 16 * v);
    }
}

}  // namespace
}  // namespace mn::MN_ISA
