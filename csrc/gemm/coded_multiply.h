// A block of packed rows times a few panels of codes. A tile of few rows decodes as it reads; for
// more, four granules at a time are decoded into L1 and used by every tile of the block.
#pragma once

#include "gemm/coded_tile.h"

namespace mn::MN_ISA {
namespace {

// Rows up to which decoding in registers is faster: with more, the decoded codes of one panel leave
// too few registers, and an L1 buffer costs less.
constexpr int kFewRows = 6;

// Panels side by side in one tile: accumulators and six more registers have to fit.
constexpr int coded_panels(int rows) {
#if MN_LEVEL >= 2
  return rows <= 3 ? 4 : 2;
#else
  return rows <= 2 ? 2 : 1;
#endif
}

template <class T>
using CodedTileKernel = void (*)(const CodedTile<T>&);

// Kernels of P panels for 1 .. kFewRows rows, null where fewer panels fit.
template <class Codec, class T, int P>
struct CodedTiles {
  CodedTileKernel<T> of_rows[kFewRows] = {};
  template <int R>
  constexpr void fill() {
    if constexpr (R <= kFewRows) {
      if constexpr (P <= coded_panels(R)) of_rows[R - 1] = coded_tile<Codec, T, R, P>;
      fill<R + 1>();
    }
  }
  constexpr CodedTiles() { fill<1>(); }
};

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

template <class Codec, class T>
constexpr CodedTiles<Codec, T, 1> kCoded1{};
template <class Codec, class T>
constexpr CodedTiles<Codec, T, 2> kCoded2{};
template <class Codec, class T>
constexpr CodedTiles<Codec, T, 4> kCoded4{};
template <class T>
constexpr DecodedTiles<T> kDecoded{};

template <class Codec, class T>
void multiply_few(const CodedBlock& block) {
  CodedTile<T> tile;
  tile.a = static_cast<const typename T::Value*>(block.rows);
  tile.granules = (block.inputs + kGranule - 1) / kGranule;
  tile.ldc = block.ldc;
  const int most = coded_panels(block.count);
  for (int p = 0, n; p < block.panel_count; p += n) {
    const int left = block.panel_count - p;
    n = left >= 4 && most >= 4 ? 4 : left >= 2 && most >= 2 ? 2 : 1;
    for (int i = 0; i < n; ++i) tile.b[i] = block.panels[p + i];
    tile.c = block.c + p * kPanel;
    (n == 4   ? kCoded4<Codec, T>.of_rows
     : n == 2 ? kCoded2<Codec, T>.of_rows
              : kCoded1<Codec, T>.of_rows)[block.count - 1](tile);
  }
}

// `b` is at the codes, or at the header of the first segment if `at_header`.
template <class Codec, class T>
MN_INLINE const uint8_t* decode_chunk(const uint8_t* b, int granules, bool at_header,
                                      Decoded<T>& w) {
  constexpr Coding coding = Codec::kCoding;
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
      for (int64_t line = 0; line < 4 * Codec::kStepBytes; line += 64)
        prefetch(b + kCodesAhead + line);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        typename T::Operand x[4];
        Codec::template decode<T>(b + half * Codec::kHalfBytes, x);
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) T::store(to + s * 64 + half * 32, x[s]);
      }
      b += 4 * Codec::kStepBytes;
      to += 4 * 64;
    }
  }
  return b;
}

template <class Codec, class T>
void multiply_many(const CodedBlock& block) {
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

template <class Codec, class T>
void multiply_codes(const CodedBlock& block) {
  if (block.count <= kFewRows)
    multiply_few<Codec, T>(block);
  else
    multiply_many<Codec, T>(block);
}

#if MN_LEVEL == 3
template <class Codec>
constexpr CodedKernels kCodedKernels{multiply_codes<Codec, Bf16Rows>,
                                     multiply_codes<Codec, FloatRows>};
#else
template <class Codec>
constexpr CodedKernels kCodedKernels{nullptr, multiply_codes<Codec, FloatRows>};
#endif

}  // namespace
}  // namespace mn::MN_ISA
