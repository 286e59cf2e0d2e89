// Register tiles over codes: R rows by P panels. One accumulator per output and segment, inputs in
// order, then one multiply-add per output with the segment's scale. A tile that decodes as it goes
// and one that reads decoded codes perform the same operations on one output.
#pragma once

#include "gemm/coded_problem.h"
#include "gemm/formats/operand.h"

namespace mn::MN_ISA {
namespace {

constexpr int kSteps = kGranule / 2;  // of a granule
// Bytes from a load of codes to its prefetch: what memory returns within its latency over all
// streams.
constexpr int64_t codes_ahead(int panels) { return 12288 / panels; }

// The same where so many bytes of the panel are left: at its end, what is read in its place
// afterwards, `jump` bytes beyond it.
MN_INLINE int64_t ahead_of(int64_t left, int64_t ahead, int64_t jump) {
  return left > ahead ? ahead : ahead + jump;
}

// Words of a row's granule, in values.
template <class T>
constexpr int64_t row_granule(bool has_min) {
  return kGranule + (has_min ? T::kDepth : 0);
}

template <int R, int V>
MN_INLINE void zero(f32x16 (&acc)[R][V]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = f32x16::zero();
}

template <class T>
struct CodedTile {
  const typename T::Value* a;  // packed rows of the tile
  const uint8_t* b[4];
  int64_t granules;
  int64_t panel_bytes, jump;  // from the end of a panel to the one read in its place afterwards
  // What a later tile reads, so many bytes of it per granule. Products of bytes bring it into L2;
  // the others leave memory time enough.
  const uint8_t* later;
  int64_t later_bytes;
  float* c;
  int64_t ldc;
};

// All inputs of a tile, decoded in registers.
template <class Codec, class T, int R, int P>
void coded_tile(const CodedTile<T>& args) {
  constexpr int V = 2 * P;
  constexpr Coding coding = Codec::kCoding;
  constexpr int64_t in_flight = codes_ahead(P);
  const typename T::Value* a = args.a;
  int64_t bytes = args.panel_bytes, ahead = in_flight;
  const uint8_t* b[P];
  for (int p = 0; p < P; ++p) b[p] = args.b[p];
  f32x16 total[R][V];
  zero(total);
  for (int64_t g = 0; g < args.granules;) {
    const uint8_t* header[P];
    for (int p = 0; p < P; ++p) {
      header[p] = b[p];
      prefetch(b[p] + ahead);
      if constexpr (coding.header_bytes > 64) prefetch(b[p] + ahead + 64);
      b[p] += coding.header_bytes;
    }
    bytes -= coding.header_bytes;
    const int64_t left = args.granules - g;
    const int64_t n = coding.granules == 0 || left < coding.granules ? left : coding.granules;
    f32x16 acc[R][V];
    zero(acc);
    for (int64_t i = 0; i < n; ++i) {
      ahead = ahead_of(bytes, in_flight, args.jump);
      bytes -= coding.granule_bytes;
      for (int q = 0; q < kSteps / 4; ++q) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
          for (int line = 0; line < 4 * Codec::kStepBytes; line += 64)
            prefetch(b[p] + ahead + line);
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          typename T::Operand w[V];
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) Codec::template step<T>(b[p], s, w[2 * p], w[2 * p + 1]);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) acc[r][v] = T::dot(acc[r][v], a, s, R, r, w[v]);
        }
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) b[p] += 4 * Codec::kStepBytes;
        a += 8 * R;
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const f32x16 scale = Codec::scale(header[v / 2], v % 2);
      f32x16 min = scale;
      if constexpr (coding.has_min) min = Codec::min(header[v / 2], v % 2);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if constexpr (coding.has_min)
          total[r][v] = fma(f32x16::set1(reinterpret_cast<const float*>(a)[r]), min, total[r][v]);
        total[r][v] = fma(acc[r][v], scale, total[r][v]);
      }
    }
    if constexpr (coding.has_min) a += T::kDepth * R;
    g += n;
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v)
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) total[r][v].store(args.c + r * args.ldc + 16 * v);
}

}  // namespace
}  // namespace mn::MN_ISA
