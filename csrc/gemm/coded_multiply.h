// A block of packed rows times a few panels of codes. Tiles decode as they read: the operations
// that decode run on other ports than the products. Where registers are few, only tiles of few rows
// do.
#pragma once

#include "gemm/coded_tile.h"
#if MN_LEVEL < 2
#include "gemm/decoded_tile.h"
#endif

namespace mn::MN_ISA {
namespace {

// Rows up to which a tile decodes in registers.
constexpr int kFewRows = MN_LEVEL >= 2 ? kCodedRows : 6;

// Panels side by side in one tile: few rows need several streams and chains of sums, and
// accumulators, one step of weights and what a codec keeps have to fit.
template <class T>
constexpr int coded_panels(int rows) {
#if MN_LEVEL >= 2
  if (T::kDepth == 2) return rows <= 2 ? 4 : rows <= 5 ? 2 : 1;
  return rows <= 1 ? 4 : rows <= 4 ? 2 : 1;
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
      if constexpr (P <= coded_panels<T>(R)) of_rows[R - 1] = coded_tile<Codec, T, R, P>;
      fill<R + 1>();
    }
  }
  constexpr CodedTiles() { fill<1>(); }
};

template <class Codec, class T>
constexpr CodedTiles<Codec, T, 1> kCoded1{};
template <class Codec, class T>
constexpr CodedTiles<Codec, T, 2> kCoded2{};
template <class Codec, class T>
constexpr CodedTiles<Codec, T, 4> kCoded4{};

template <class Codec, class T>
void multiply_in_registers(const CodedBlock& block) {
  const int64_t granules = (block.inputs + kGranule - 1) / kGranule;
  const int64_t row_values = granules * row_granule<T>(Codec::kCoding.has_min);
  CodedTile<T> tile;
  tile.granules = granules;
  tile.ldc = block.ldc;
  for (int p = 0, n; p < block.panel_count; p += n) {
    const int left = block.panel_count - p;
    const int most = coded_panels<T>(block.height);
    n = left >= 4 && most >= 4 ? 4 : left >= 2 && most >= 2 ? 2 : 1;
    for (int i = 0; i < n; ++i) tile.b[i] = block.panels[p + i];
    for (int row = 0; row < block.count; row += block.height) {
      const int rows = block.count - row < block.height ? block.count - row : block.height;
      tile.a = static_cast<const typename T::Value*>(block.rows) + row * row_values;
      tile.c = block.c + row * block.ldc + p * kPanel;
      (n == 4   ? kCoded4<Codec, T>.of_rows
       : n == 2 ? kCoded2<Codec, T>.of_rows
                : kCoded1<Codec, T>.of_rows)[rows - 1](tile);
    }
  }
}

template <class Codec, class T>
void multiply_codes(const CodedBlock& block) {
#if MN_LEVEL < 2
  if (block.count > kFewRows) return multiply_decoded<Codec, T>(block);
#endif
  multiply_in_registers<Codec, T>(block);
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
