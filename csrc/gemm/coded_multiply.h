// A block of packed rows times a few panels of codes. Tiles decode as they read: the operations
// that decode run on other ports than the products. Where registers are few, only tiles of few rows
// do.
#pragma once

#include "gemm/coded_tile.h"
#include "gemm/quantised_tile.h"
#if MN_LEVEL < 2
#include "gemm/decoded_tile.h"
#endif

namespace mn::MN_ISA {
namespace {

// Rows up to which a tile decodes in registers.
constexpr int kFewRows = MN_LEVEL >= 2 ? kCodedRows : 6;

// Panels side by side in one tile: few rows need several chains of sums, and accumulators, one step
// of weights and what a codec keeps have to fit. Chains of bytes are shorter.
template <class T>
constexpr int coded_panels(int rows) {
#if MN_LEVEL >= 2
  if (T::kDepth == 4) return rows <= 2 ? 2 : 1;
  if (T::kDepth == 2) return rows <= 2 ? 4 : rows <= 5 ? 2 : 1;
  return rows <= 1 ? 4 : rows <= 4 ? 2 : 1;
#else
  return rows <= 2 ? 2 : 1;
#endif
}

template <class T>
using CodedTileKernel = void (*)(const CodedTile<T>&);

template <class Codec, class T, int R, int P>
struct TileOf {
  static constexpr CodedTileKernel<T> kernel = coded_tile<Codec, T, R, P>;
  static constexpr int64_t kRowGranule = row_granule<T>(Codec::kCoding.has_min);
};
template <class Codec, int R, int P>
struct TileOf<Codec, QuantisedRows, R, P> {
  static constexpr CodedTileKernel<QuantisedRows> kernel = quantised_tile<Codec, R, P>;
  static constexpr int64_t kRowGranule =
      QuantisedRows::kGranuleWords * (4 / int64_t{sizeof(QuantisedRows::Value)});
};

// Kernels of P panels for 1 .. kFewRows rows, null where fewer panels fit.
template <class Codec, class T, int P>
struct CodedTiles {
  CodedTileKernel<T> of_rows[kFewRows] = {};
  template <int R>
  constexpr void fill() {
    if constexpr (R <= kFewRows) {
      if constexpr (P <= coded_panels<T>(R)) of_rows[R - 1] = TileOf<Codec, T, R, P>::kernel;
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

// Bytes of the next panel that each tile of a block brings into L2 per granule: an equal part, so
// that memory is neither idle nor waited for; nothing where a panel is read only once.
MN_INLINE int64_t later_bytes(const CodedBlock& block, int64_t panel_bytes, int64_t granules) {
  if (block.count <= block.height) return 0;
  const int64_t steps = (block.count + block.height - 1) / block.height * granules;
  return (panel_bytes + steps - 1) / steps;
}

template <class Codec, class T>
void multiply_in_registers(const CodedBlock& block) {
  const int64_t granules = (block.inputs + kGranule - 1) / kGranule;
  const int64_t row_values = granules * TileOf<Codec, T, 1, 1>::kRowGranule;
  CodedTile<T> tile;
  tile.granules = granules;
  tile.ldc = block.ldc;
  tile.panel_bytes = Codec::kCoding.panel_bytes(block.inputs);
  tile.later_bytes = later_bytes(block, tile.panel_bytes, granules);
  for (int p = 0, n; p < block.panel_count; p += n) {
    const int left = block.panel_count - p;
    const int most = coded_panels<T>(block.height);
    n = left >= 4 && most >= 4 ? 4 : left >= 2 && most >= 2 ? 2 : 1;
    for (int i = 0; i < n; ++i) tile.b[i] = block.panels[p + i];
    const uint8_t* next = n < left ? block.panels[p + n] : block.panels[0] + block.next;
    tile.jump = next - (tile.b[0] + tile.panel_bytes);
    for (int row = 0; row < block.count; row += block.height) {
      const int rows = block.count - row < block.height ? block.count - row : block.height;
      tile.a = static_cast<const typename T::Value*>(block.rows) + row * row_values;
      tile.c = block.c + row * block.ldc + p * kPanel;
      tile.later = next + row / block.height * granules * tile.later_bytes;
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
                                     multiply_codes<Codec, FloatRows>, nullptr};
#else
template <class Codec>
constexpr CodedKernels kCodedKernels{nullptr, multiply_codes<Codec, FloatRows>, nullptr};
#endif
template <class Codec>
constexpr CodedKernels kQuantisedKernels{nullptr, nullptr,
                                         multiply_in_registers<Codec, QuantisedRows>};

}  // namespace
}  // namespace mn::MN_ISA
