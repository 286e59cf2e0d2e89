// A block of many rows where registers are few: four granules of a panel at a time are decoded into
// L1 and used by every tile of the block.
#pragma once

#include "gemm/coded_tile.h"

namespace mn::MN_ISA {
namespace {

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

template <class T>
struct DecodedTiles {
  void (*of_rows[kCodedRows])(const DecodedTile<T>&) = {};
  template <int R>
  constexpr void fill() {
    if constexpr (R <= kCodedRows) {
      of_rows[R - 1] = decoded_tile<T, R>;
      fill<R + 1>();
    }
  }
  constexpr DecodedTiles() { fill<1>(); }
};

template <class T>
constexpr DecodedTiles<T> kDecoded{};

// `b` is at the codes, or at the header of the first segment if `at_header`.
template <class Codec, class T>
MN_INLINE const uint8_t* decode_chunk(const uint8_t* b, int granules, bool at_header,
                                      Decoded<T>& w) {
  constexpr Coding coding = Codec::kCoding;
  constexpr int64_t ahead = codes_ahead(1);
  typename T::Value* to = w.values;
  for (int g = 0; g < granules; ++g) {
    if (coding.granules == 0 ? at_header && g == 0 : g % coding.granules == 0) {
      const int segment = coding.granules == 0 ? 0 : g / coding.granules;
      for (int half = 0; half < 2; ++half) {
        Codec::scale(b, half).store(w.scales[segment] + 16 * half);
        if constexpr (coding.has_min) Codec::min(b, half).store(w.mins[segment] + 16 * half);
      }
      b += coding.header_bytes;
    }
    for (int q = 0; q < kSteps / 4; ++q) {
      for (int64_t line = 0; line < 4 * Codec::kStepBytes; line += 64) prefetch(b + ahead + line);
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        typename T::Operand w0, w1;
        Codec::template step<T>(b, s, w0, w1);
        T::store(to + s * 64, w0);
        T::store(to + s * 64 + 32, w1);
      }
      b += 4 * Codec::kStepBytes;
      to += 4 * 64;
    }
  }
  return b;
}

template <class Codec, class T>
void multiply_decoded(const CodedBlock& block) {
  constexpr Coding coding = Codec::kCoding;
  constexpr bool whole = coding.granules == 0;
  const int64_t granules = (block.inputs + kGranule - 1) / kGranule;
  const int64_t row_values = row_granule<T>(coding.has_min);
  Decoded<T> w;
  DecodedTile<T> tile;
  tile.w = &w;
  tile.ldc = block.ldc;
  tile.segment_granules = whole ? kChunkGranules : static_cast<int>(coding.granules);
  tile.has_min = coding.has_min;
  for (int p = 0; p < block.panel_count; ++p) {
    const uint8_t* b = block.panels[p];
    for (int64_t g = 0; g < granules; g += kChunkGranules) {
      const int64_t left = granules - g;
      const int n = static_cast<int>(left < kChunkGranules ? left : kChunkGranules);
      b = decode_chunk<Codec, T>(b, n, g == 0, w);
      tile.granules = n;
      tile.first = g == 0;
      tile.carry = whole && g > 0;
      tile.scale = !whole || left <= kChunkGranules;
      for (int row = 0; row < block.count; row += block.height) {
        const int rows = block.count - row < block.height ? block.count - row : block.height;
        tile.a = static_cast<const typename T::Value*>(block.rows) +
                 (row * granules + g * rows) * row_values;
        tile.c = block.c + row * block.ldc + p * kPanel;
        kDecoded<T>.of_rows[rows - 1](tile);
      }
    }
  }
}

}  // namespace
}  // namespace mn::MN_ISA
