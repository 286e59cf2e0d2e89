// Register tiles over codes: R rows by P panels. One accumulator per output and segment, inputs in
// order, then one multiply-add per output with the segment's scale. A tile that decodes as it goes
// and one that reads decoded codes perform the same operations on one output.
#pragma once

#include "gemm/coded_problem.h"
#include "gemm/formats/operand.h"

namespace mn::MN_ISA {
namespace {

constexpr int kSteps = kGranule / 2;  // of a granule
// Bytes from a load of codes to its prefetch.
constexpr int64_t kCodesAhead = 4096;

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

// c = scale * acc + (min * sum + c) for half panel v, c = 0 before the first segment. `sums` holds
// the sum of the segment's inputs for each row; null where the format has no mins.
template <int R, int V>
MN_INLINE void add_segment(const f32x16 (&acc)[R][V], int v, f32x16 scale, f32x16 min,
                           const void* sums, float* c, int64_t ldc, bool first) {
  const float* sum = static_cast<const float*>(sums);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    f32x16 total = first ? f32x16::zero() : f32x16::load(c + r * ldc);
    if (sum) total = fma(f32x16::set1(sum[r]), min, total);
    fma(acc[r][v], scale, total).store(c + r * ldc);
  }
}

template <class T>
struct CodedTile {
  const typename T::Value* a;  // packed rows of the tile
  const uint8_t* b[4];
  int64_t granules;
  float* c;
  int64_t ldc;
};

// All inputs of a tile, decoded in registers.
template <class Codec, class T, int R, int P>
void coded_tile(const CodedTile<T>& args) {
  constexpr int V = 2 * P;
  constexpr Coding coding = Codec::kCoding;
  const typename T::Value* a = args.a;
  const uint8_t* b[P];
  for (int p = 0; p < P; ++p) b[p] = args.b[p];
  for (int64_t g = 0; g < args.granules;) {
    const uint8_t* header[P];
    for (int p = 0; p < P; ++p) {
      header[p] = b[p];
      prefetch(b[p] + kCodesAhead);
      if constexpr (coding.header_bytes > 64) prefetch(b[p] + kCodesAhead + 64);
      b[p] += coding.header_bytes;
    }
    const bool first = g == 0;
    const int64_t left = args.granules - g;
    const int64_t n = coding.granules == 0 || left < coding.granules ? left : coding.granules;
    f32x16 acc[R][V];
    zero(acc);
    for (int64_t i = 0; i < n; ++i) {
      for (int q = 0; q < kSteps / 4; ++q) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          const uint8_t* codes = b[v / 2] + v % 2 * Codec::kHalfBytes;
          if (Codec::kHalfBytes == 64 || v % 2 == 0) prefetch(codes + kCodesAhead);
          if constexpr (Codec::kStepBytes == 64) {
            if (v % 2 == 0) {
              prefetch(codes + kCodesAhead + 64);
              prefetch(codes + kCodesAhead + 128);
              prefetch(codes + kCodesAhead + 192);
            }
          }
          typename T::Operand w[4];
          Codec::template decode<T>(codes, w);
#pragma GCC unroll 4
          for (int s = 0; s < 4; ++s)
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][v] = T::dot(acc[r][v], a, s, R, r, w[s]);
        }
        for (int p = 0; p < P; ++p) b[p] += 4 * Codec::kStepBytes;
        a += 8 * R;
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const f32x16 scale = Codec::scale(header[v / 2], v % 2);
      if constexpr (coding.has_min)
        add_segment(acc, v, scale, Codec::min(header[v / 2], v % 2), a, args.c + 16 * v, args.ldc,
                    first);
      else
        add_segment(acc, v, scale, scale, nullptr, args.c + 16 * v, args.ldc, first);
    }
    if constexpr (coding.has_min) a += T::kDepth * R;
    g += n;
  }
}

// Codes of some granules, decoded once for all tiles of a block.
constexpr int kChunkGranules = 4;
template <class T>
struct Decoded {
  alignas(64) typename T::Value values[kChunkGranules * kGranule * 32];  // [steps][2 halves]
  alignas(64) float scales[kChunkGranules][32];                          // per segment
  alignas(64) float mins[kChunkGranules][32];
};

template <class T>
struct DecodedTile {
  const typename T::Value* a;
  const Decoded<T>* w;
  int granules, segment_granules;
  bool has_min;
  bool first;  // no input came before
  bool carry;  // the segment goes on from c
  bool scale;  // the segment ends here
  float* c;
  int64_t ldc;
};

template <class T, int R>
void decoded_tile(const DecodedTile<T>& args) {
  const typename T::Value* a = args.a;
  const typename T::Value* w = args.w->values;
  bool first = args.first;
  for (int g = 0, segment = 0; g < args.granules; ++segment) {
    const int left = args.granules - g;
    const int n = left < args.segment_granules ? left : args.segment_granules;
    f32x16 acc[R][2];
    if (args.carry) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][0] = f32x16::load(args.c + r * args.ldc);
        acc[r][1] = f32x16::load(args.c + r * args.ldc + 16);
      }
    } else {
      zero(acc);
    }
    for (int i = 0; i < n; ++i) {
      for (int s = 0; s < kSteps; ++s) {
        const typename T::Operand w0 = T::load(w), w1 = T::load(w + 32);
        w += 64;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          acc[r][0] = T::dot(acc[r][0], a, 0, R, r, w0);
          acc[r][1] = T::dot(acc[r][1], a, 0, R, r, w1);
        }
        a += 2 * R;
      }
    }
    if (args.scale) {
      // What was carried in c is in the accumulators now.
      const bool fresh = first || args.carry;
      const float *scales = args.w->scales[segment], *mins = args.w->mins[segment];
      const void* sums = args.has_min ? a : nullptr;
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v)
        add_segment(acc, v, f32x16::load(scales + 16 * v), f32x16::load(mins + 16 * v), sums,
                    args.c + 16 * v, args.ldc, fresh);
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        acc[r][0].store(args.c + r * args.ldc);
        acc[r][1].store(args.c + r * args.ldc + 16);
      }
    }
    if (args.has_min) a += T::kDepth * R;
    first = false;
    g += n;
  }
}

}  // namespace
}  // namespace mn::MN_ISA
