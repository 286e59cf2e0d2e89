// What a product with codes needs beside its tiles: the rows, granule by granule, and the call of
// the format's kernel. Everything here has the shape of its counterpart for plain weights, so that
// one source serves both; CodedFormat<T> stands for all coded formats with rows of T.
#pragma once

#include "gemm/coded_problem.h"
#include "gemm/formats/operand.h"
#include "gemm/panels.h"
#include "gemm/quantised_rows.h"
#include "gemm/rows.h"

namespace mn::MN_ISA {
namespace {

template <class T>
struct CodedFormat {
  using Rows = T;
  using Value = typename T::Value;
  static constexpr int kDepth = T::kDepth;
};
using CodedF32 = CodedFormat<FloatRows>;
#if MN_LEVEL == 3
using CodedBf16 = CodedFormat<Bf16Rows>;
#else
using CodedBf16 = CodedF32;  // bf16 rows are packed as floats
#endif

using CodedQuantised = CodedFormat<QuantisedRows>;

template <class F>
concept Coded = requires { typename F::Rows; };

template <class F>
constexpr bool quantised = false;
template <>
constexpr bool quantised<CodedQuantised> = true;

// Words of a packed row.
template <class F>
MN_INLINE int64_t row_steps(const PackedLayout& l) {
  if constexpr (Coded<F>)
    return coded_words(l, F::kDepth, quantised<F> ? QuantisedRows::kScaleWords : 0);
  else
    return l.steps();
}

// Codes are read where they lie; the pointer only passes through.
template <class F>
  requires Coded<F>
MN_INLINE const typename F::Value* panel_of(const Weights& w, int64_t group, int64_t panel, char*) {
  const PackedLayout& l = w.layout;
  return reinterpret_cast<const typename F::Value*>(
      static_cast<const char*>(w.data) + group * l.expert_bytes() + panel * l.panel_bytes());
}

template <class F>
  requires Coded<F>
MN_INLINE int panels_at_once(const RowBlock& block) {
  return block.rows <= block.height ? 4 : 1;
}

MN_INLINE const CodedKernels& coded_kernels(Format format) {
  switch (format) {
    case Format::e4m3_128x128:
      return coded_e4m3_128x128;
    case Format::int8_row:
      return coded_int8_row;
    case Format::int8_32:
      return coded_int8_32;
    case Format::int4_32:
      return coded_int4_32;
    case Format::mxfp4:
      return coded_mxfp4;
    case Format::int8_row_a8:
      return coded_int8_row_a8;
    default:
      return coded_int8_32_a8;
  }
}

// c = rows times `count` panels; `next` as for multiply.
template <class F>
MN_INLINE void multiply_panels(const PackedLayout& l, const PackedRows<F>& x,
                               const typename F::Value* const* panels, int64_t count, float* c,
                               int64_t ldc, const void* next = nullptr) {
  if constexpr (Coded<F>) {
    const auto* first = reinterpret_cast<const char*>(panels[0]);
    const auto* after = static_cast<const char*>(next);
    CodedBlock block{x.data,
                     x.rows,
                     x.height,
                     {},
                     static_cast<int>(count),
                     l.inputs,
                     c,
                     ldc,
                     after ? after - first : count * l.panel_bytes()};
    for (int64_t i = 0; i < count; ++i)
      block.panels[i] = reinterpret_cast<const uint8_t*>(panels[i]);
    const CodedKernels& kernels = coded_kernels(l.format);
    (quantised<F> ? kernels.quantised : F::kDepth == 2 ? kernels.bf16 : kernels.f32)(block);
  } else {
    multiply<F>(x, panels, static_cast<int>(count), l.steps(), c, ldc, next);
  }
}

// sums[row] = the inputs of one granule, [words][n] of a tile, added in their order.
template <class F>
void sum_granule(const void* granule, int n, void* sums) {
  const char* words = static_cast<const char*>(granule);
  float total[16] = {};
  for (int64_t j = 0; j < kGranule / F::kDepth; ++j) {
    uint32_t word[16] = {};
    u32x16::load_n(words + j * n * 4, n).store_n(word, n);
    for (int i = 0; i < 16; ++i) {
      float value;
      if constexpr (F::kDepth == 2) {
        const uint32_t low = word[i] << 16, high = word[i] & 0xffff0000u;
        std::memcpy(&value, &low, 4);
        total[i] += value;
        std::memcpy(&value, &high, 4);
      } else {
        std::memcpy(&value, word + i, 4);
      }
      total[i] += value;
    }
  }
  std::memcpy(sums, total, static_cast<size_t>(n) * 4);
}

template <class F, class Source>
  requires(!quantised<F>)
void pack_granules(const Source* const* rows, int n, const PackedLayout& l, void* out) {
  const bool has_min = coding_of(l.format).has_min;
  constexpr int64_t words = kGranule / F::kDepth;
  char* to = static_cast<char*>(out);
  if (!has_min) {
    pack_tile<F>(rows, n, l.inputs, row_steps<F>(l), to);
    return;
  }
  for (int64_t k = 0; k < l.inputs; k += kGranule) {
    const Source* from[16];
    for (int i = 0; i < n; ++i) from[i] = rows[i] + k;
    pack_tile<F>(from, n, lesser(kGranule, l.inputs - k), words, to);
    sum_granule<F>(to, n, to + words * n * 4);
    to += (words + 1) * n * 4;
  }
}

template <class F, class Source>
  requires(quantised<F>)
void pack_granules(const Source* const* rows, int n, const PackedLayout& l, void* out) {
  constexpr int64_t bytes = 4 * QuantisedRows::kGranuleWords;
  char* to = static_cast<char*>(out);
  for (int64_t k = 0; k < l.inputs; k += kGranule, to += bytes * n)
    for (int i = 0; i < n; ++i) {
      f32x16 x[2];
      const int left = static_cast<int>(lesser(kGranule, l.inputs - k));
      for (int v = 0; v < 2; ++v)
        x[v] = left >= 16 * (v + 1)
                   ? f32x16::load(rows[i] + k + 16 * v)
                   : f32x16::load_n(rows[i] + k + 16 * v, left > 16 * v ? left - 16 * v : 0);
      quantise_granule(x[0], x[1], to, n, i);
    }
}

// Packs tile `tile` of a block, if it has so many.
template <class F>
void pack_block_tile(const RowSource& x, const RowBlock& block, int64_t tile, const PackedLayout& l,
                     void* packed) {
  if constexpr (Coded<F>) {
    const int64_t row = tile * block.height, first = block.first_row + row;
    if (row >= block.rows) return;
    const int n = static_cast<int>(lesser(block.height, block.rows - row));
    const auto gather = [&]<class Source>(const Source* data) {
      const Source* rows[16];
      for (int i = 0; i < n; ++i)
        rows[i] = data + (x.index ? x.index[first + i] : first + i) * x.stride;
      pack_granules<F>(rows, n, l, packed_at<F>(packed, first, row_steps<F>(l)));
    };
    if constexpr (F::kDepth != 2) {
      if (!x.bf16) return gather(static_cast<const float*>(x.data));
    }
    gather(static_cast<const bf16*>(x.data));
  } else {
    pack_rows<F>(x, block, tile, l.inputs, l.steps(), packed);
  }
}

}  // namespace
}  // namespace mn::MN_ISA
